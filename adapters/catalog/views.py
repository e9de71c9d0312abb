"""The promised views: the same columns on SQLite and PostgreSQL. Tables may change; views change only with a changelog line."""

from __future__ import annotations

from pipeline.domain import FINDINGS, Decision, Scale
from pipeline.statements import BAND_BOUNDS


def finding_column(finding: str) -> str:
    """Return a finding's column in v_findings_wide: Pleural_Thickening -> pleural_thickening."""
    return finding.lower()


_FINDING_VALUES = ", ".join(f"('{finding}')" for finding in FINDINGS)
_FINDING_COLUMNS = ",\n    ".join(
    ["p.excess AS " + finding_column(FINDINGS[0])]
    + [
        "(SELECT q.excess FROM predictions q WHERE q.study = p.study AND q.version = p.version"
        f" AND q.finding = '{finding}') AS {finding_column(finding)}"
        for finding in FINDINGS[1:]
    ]
)
"""Scalar subqueries by key: computed only for selected columns, so that studies which are not shown are not read."""

_BAND = (
    "CASE "
    + " ".join(f"WHEN p.likelihood < {bound} THEN '{band}'" for band, bound in list(BAND_BOUNDS.items())[:-1])
    + f" WHEN p.likelihood IS NOT NULL THEN '{list(BAND_BOUNDS)[-1]}' END AS band"
)
_TOLD = f"""CASE WHEN p.scale = '{Scale.PROBABILITY}' THEN p.likelihood END AS probability, {_BAND}, p.percentile,
    CASE WHEN p.scale = '{Scale.RANK}' THEN CAST(d.priors ->> p.finding AS FLOAT)
        ELSE CAST(m.card -> 'learning' -> 'measures' -> p.finding ->> 'prevalence' AS FLOAT) END AS prevalence,
    CASE WHEN p.decision = '{Decision.NOT_ASSESSED}' THEN NULL
        WHEN p.scale = '{Scale.RANK}' THEN 1 - CAST(d.call_rates ->> p.finding AS FLOAT)
        ELSE CAST(m.thresholds ->> p.finding AS FLOAT) END AS operating_point"""
"""The same numbers as `pipeline.statements.FindingStatement` has: a test compares the two."""

_IS_CURRENT_ATTEMPT = "state = 'running' AND payload ->> 'lease' = lease_token"
"""The progress that a job notes is valid only for the attempt that noted it."""

VIEWS: dict[str, str] = {
    "v_studies": """
SELECT s.study_instance_uid, s.accession_number, t.patient_id, t.issuer_of_patient_id, t.patient_sex, s.patient_age,
    s.study_date, s.study_time, s.study_description, s.state, s.reason, s.revision, s.instance_count,
    s.received_at, s.last_received_at, s.files_deleted_at, CASE WHEN s.silent THEN 1 WHEN s.silent IS NOT NULL THEN 0 END AS silent
FROM studies s JOIN patients t ON t.id = s.patient""",
    "v_instances": """
SELECT i.sop_instance_uid, r.series_instance_uid, s.study_instance_uid, i.sop_class_uid, i.transfer_syntax_uid, r.modality,
    r.series_number, i.instance_number, i.header ->> 'view_position' AS view_position,
    i.header ->> 'body_part_examined' AS body_part_examined, i.header ->> 'manufacturer_model_name' AS manufacturer_model_name,
    i.file_key, i.file_sha256, i.file_size, i.sender_ae_title, i.sender_address, i.received_at, n.distance,
    CASE WHEN n.distance > 1 THEN 1 WHEN n.distance IS NOT NULL THEN 0 END AS unusable, i.state, i.revision
FROM instances i JOIN series r ON r.id = i.series JOIN studies s ON s.id = r.study
    LEFT JOIN image_thumbnails n ON n.instance = i.id""",
    "v_instance_revisions": """
SELECT v.id AS number, i.sop_instance_uid, v.transfer_syntax_uid, v.difference, v.file_key, v.file_sha256, v.file_size, v.state,
    v.replaced_at
FROM instance_revisions v JOIN instances i ON i.id = v.instance""",
    "v_conflicts": """
SELECT c.id AS conflict, i.sop_instance_uid, s.study_instance_uid, i.file_key AS stored_file_key, c.file_key, c.file_sha256,
    c.file_size, c.sender_ae_title, c.sender_address, c.received_at, c.resolution, c.resolved_at
FROM instance_conflicts c JOIN instances i ON i.id = c.instance JOIN series r ON r.id = i.series
    JOIN studies s ON s.id = r.study""",
    "v_predictions": f"""
SELECT s.study_instance_uid, s.accession_number, p.finding, p.decision, p.scale, {_TOLD}, p.excess, p.reason, p.reference, p.score,
    p.version, m.name AS version_name, m.notice, p.revision, p.predicted_at
FROM predictions p JOIN studies s ON s.id = p.study AND s.revision = p.revision JOIN model_versions m ON m.number = p.version
    LEFT JOIN reference_distributions d ON d.number = p.reference""",
    # CROSS JOIN: SQLite keeps this order of tables, study by study, and never starts from a retired version.
    "v_findings_wide": f"""
SELECT s.study_instance_uid, s.accession_number, s.study_date, m.number AS version, m.notice,
    {_FINDING_COLUMNS}
FROM studies s CROSS JOIN predictions p CROSS JOIN model_versions m
WHERE p.study = s.id AND p.revision = s.revision AND p.finding = '{FINDINGS[0]}' AND m.number = p.version""",
    "v_reports": """
SELECT r.sop_instance_uid, r.series_instance_uid, r.sop_class_uid, s.study_instance_uid, s.accession_number, r.version, r.revision,
    r.state, r.predecessor, r.file_key, r.file_sha256, r.status, r.created_at, r.built_at, r.sent_at, r.withdrawal, r.withheld
FROM reports r JOIN studies s ON s.id = r.study""",
    "v_visible_objects": """
SELECT v.sop_instance_uid, v.series_instance_uid, v.sop_class_uid, s.study_instance_uid, s.accession_number, v.kind,
    r.sop_instance_uid AS report_sop_instance_uid, r.version, r.revision, v.state, v.predecessor, v.file_key, v.file_sha256,
    v.status, v.created_at, v.built_at, v.sent_at
FROM visible_objects v JOIN reports r ON r.id = v.report JOIN studies s ON s.id = r.study""",
    "v_deliveries": """
SELECT d.sop_instance_uid, d.sop_class_uid, d.destination, s.study_instance_uid, s.accession_number,
    r.sop_instance_uid AS report_sop_instance_uid, d.state, d.status, d.sendings, d.created_at, d.sent_at, d.committed_at,
    d.verified_at, d.checked_at
FROM deliveries d JOIN reports r ON r.id = d.report JOIN studies s ON s.id = r.study""",
    "v_lineage": f"""
SELECT r.sop_instance_uid, s.study_instance_uid, r.revision, r.state AS delivery, r.status, r.created_at, r.built_at, r.sent_at,
    r.file_sha256 AS report_sha256, r.predecessor, i.sop_instance_uid AS image_sop_instance_uid, i.file_key AS image_file_key,
    i.file_sha256 AS image_sha256, r.version, m.name AS version_name, m.device_uid, m.notice, m.weights_sha256,
    m.card -> 'preprocess' ->> 'fingerprint' AS preprocessing, m.card -> 'prompts' ->> 'fingerprint' AS prompts,
    m.label_fingerprint, m.card ->> 'calibration' AS calibration, f.column1 AS finding, p.decision, p.scale, {_TOLD}, p.excess,
    p.reason, p.reference, p.score, m.undetermined_margin
FROM reports r JOIN studies s ON s.id = r.study JOIN model_versions m ON m.number = r.version
    JOIN series e ON e.study = s.id JOIN instances i ON i.series = e.id
    JOIN image_scores g ON g.instance = i.id AND g.version = r.version AND g.created_at <= r.created_at
    CROSS JOIN (VALUES {_FINDING_VALUES}) AS f
    LEFT JOIN predictions p
        ON p.study = r.study AND p.version = r.version AND p.revision = r.revision AND p.finding = f.column1
    LEFT JOIN reference_distributions d ON d.number = p.reference""",
    "v_labels": """
SELECT l.id, s.study_instance_uid, s.accession_number, l.finding, l.state, l.reader, l.source, l.selection_reason,
    l.selection_probability, l.created_at,
    CASE WHEN (SELECT x.id FROM labels x WHERE x.revokes = l.id) IS NOT NULL OR EXISTS (
        SELECT 1 FROM labels x WHERE x.study = l.study AND x.finding = l.finding AND x.reader = l.reader AND x.state IS NOT NULL
            AND (x.stated_at > l.stated_at OR (x.stated_at = l.stated_at AND x.id > l.id))) THEN 1 ELSE 0 END AS revoked,
    l.stated_at, l.document, l.exposure
FROM labels l JOIN studies s ON s.id = l.study WHERE l.state IS NOT NULL""",
    "v_readings": """
SELECT r.id, s.study_instance_uid, s.accession_number, r.reader, r.skip_reason, r.states, r.points, r.comment, r.exposure,
    r.read_at, CASE WHEN r.is_repeat THEN 1 ELSE 0 END AS repeated, d.sop_instance_uid AS document, d.state AS document_state,
    d.sent_at
FROM readings r JOIN studies s ON s.id = r.study
    LEFT JOIN reader_documents d ON d.reading = r.id""",
    "v_users": """
SELECT name, role, disabled, created_at
FROM users""",
    "v_worklist": """
SELECT s.study_instance_uid, s.accession_number, s.study_date, q.selection_reason, q.finding, q.reason, q.selection_probability,
    q.version, q.requested_at,
    (SELECT MIN(l.created_at) FROM labels l WHERE l.study = q.study AND l.state IS NOT NULL) AS labelled_at
FROM requests q JOIN studies s ON s.id = q.study""",
    "v_second_readings": """
SELECT s.study_instance_uid, s.accession_number, q.finding, q.reason, q.version, q.requested_at,
    (SELECT MIN(l.created_at) FROM labels l WHERE l.study = q.study AND l.state IS NOT NULL AND l.created_at > q.requested_at)
        AS labelled_at
FROM second_readings q JOIN studies s ON s.id = q.study""",
    "v_model_versions": """
SELECT number, state, name, base, weights_sha256, device_uid, notice, calibrated, label_fingerprint, scales, thresholds,
    undetermined_margin, reason, card, created_at, served_at, retired_at,
    (SELECT MAX(d.number) FROM reference_distributions d WHERE d.version = number) AS reference
FROM model_versions""",
    "v_references": """
SELECT number, version, studies, priors, call_rates, separation, made_at
FROM reference_distributions""",
    "v_report_stops": """
SELECT finding, reason, source, stopped_at, resumed_at
FROM report_stops""",
    # All studies less the few that are not reported: an index counts both, and no reported study is looked up.
    "v_rescoring": f"""
SELECT m.number AS version, m.name AS version_name, m.served_at, t.studies - o.studies AS studies,
    COALESCE(a.scored, 0) - o.scored AS scored, COALESCE(a.scored_since, 0) - o.scored_since AS scored_since, a.last_scored_at
FROM model_versions m CROSS JOIN (SELECT COUNT(*) AS studies FROM studies) t
    CROSS JOIN (
        SELECT COUNT(*) AS studies, COUNT(p.study) AS scored,
            COUNT(CASE WHEN p.predicted_at >= n.served_at THEN 1 END) AS scored_since
        FROM studies s LEFT JOIN model_versions n ON n.state = 'serving'
            LEFT JOIN predictions p ON p.study = s.id AND p.version = n.number AND p.finding = '{FINDINGS[0]}'
        WHERE s.state <> 'reported' AND (s.state <> 'scored' OR COALESCE(
            (SELECT CASE WHEN r.withheld = '' THEN r.state ELSE 'refused' END
                FROM reports r WHERE r.study = s.id ORDER BY r.id DESC LIMIT 1),
            (SELECT 'refused' FROM backfilled_studies k WHERE k.study_instance_uid = s.study_instance_uid), '') <> 'refused')) o
    LEFT JOIN (
        SELECT p.version, COUNT(*) AS scored, COUNT(CASE WHEN p.predicted_at >= n.served_at THEN 1 END) AS scored_since,
            MAX(p.predicted_at) AS last_scored_at
        FROM model_versions n JOIN predictions p ON p.version = n.number
        WHERE n.state = 'serving' AND p.finding = '{FINDINGS[0]}'
        GROUP BY p.version) a ON a.version = m.number
WHERE m.state = 'serving' AND t.studies > o.studies""",
    "v_learning": f"""
SELECT j.id AS job, j.state, j.created_at, j.attempts, j.worker, j.stage, j.done, j.total,
    j.seconds / NULLIF(j.done, 0) * (j.total - j.done) AS seconds_left, j.result, j.reason, j.version, j.error, j.finished_at
FROM (SELECT id, state, created_at, attempts, worker, error, finished_at,
        CASE WHEN {_IS_CURRENT_ATTEMPT} THEN payload ->> 'stage' END AS stage,
        CASE WHEN {_IS_CURRENT_ATTEMPT} THEN CAST(payload ->> 'done' AS INTEGER) END AS done,
        CASE WHEN {_IS_CURRENT_ATTEMPT} THEN CAST(payload ->> 'total' AS INTEGER) END AS total,
        CASE WHEN {_IS_CURRENT_ATTEMPT} THEN CAST(payload ->> 'seconds' AS FLOAT) END AS seconds,
        payload ->> 'result' AS result, payload ->> 'reason' AS reason, CAST(payload ->> 'version' AS INTEGER) AS version
    FROM jobs WHERE kind = 'learn') j""",
    "v_backfills": """
SELECT b.source, b.begun_at, (SELECT COUNT(*) FROM backfill_days d WHERE d.backfill = b.id) AS days_done,
    COUNT(CASE WHEN p.state = 'done' THEN 1 END) AS units_done, COUNT(CASE WHEN p.state = 'failed' THEN 1 END) AS units_failed,
    CAST(COALESCE(SUM(p.instances), 0) AS BIGINT) AS instances, CAST(COALESCE(SUM(p.refused), 0) AS BIGINT) AS refused,
    CAST(COALESCE(SUM(p.bytes), 0) AS BIGINT) AS bytes, MAX(p.finished_at) AS last_at,
    (SELECT e.error FROM backfill_units e WHERE e.backfill = b.id AND e.state = 'failed'
        ORDER BY e.finished_at DESC LIMIT 1) AS last_error
FROM backfills b LEFT JOIN backfill_units p ON p.backfill = b.id GROUP BY b.id, b.source, b.begun_at""",
    "v_audit": """
SELECT id, at, action, outcome, subject, detail, source, patient AS patient_pseudonym, position, chain_sha256
FROM audit_events""",
    "v_jobs": """
SELECT id, kind, subject, state, priority, run_at, attempts, worker, lease_until, error, created_at, finished_at
FROM jobs""",
}
"""Name -> query."""
