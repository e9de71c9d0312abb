"""worklist: archive, labels, serving version -> requests: the studies to label next, each with its reason and probability."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline import rules, versions
from pipeline.acquisition import CandidateStudies, LabelHistory, SelectedStudy, SelectionPolicy, SelectionReason, select_studies
from pipeline.consensus import LabelPolicy, labels_in_force, resolve_consensus
from pipeline.domain import FINDINGS, PRESENT, AuditEvent, Header, ModelVersion, Request, VersionState
from pipeline.errors import TransientError
from pipeline.ports.services import Catalog, Transaction


@dataclass(frozen=True, slots=True, kw_only=True)
class WorklistPolicy:
    """`[worklist]`, `[labels]` and `[study]` of the configuration."""

    selection: SelectionPolicy
    labels: LabelPolicy
    chest: rules.ChestPolicy
    second_readings: float = 0.0  # share of a list for studies with a doubtful label
    max_patients: int  # of a larger archive, a random sample of this many patients is considered for each list
    request_expiry_days: float  # a request without a label excludes the patient's other studies for this long
    seed: int = 0


@dataclass(frozen=True, slots=True)
class WorklistEntry:
    """A request with the facts by which a reader finds the study."""

    request: Request
    accession_number: str
    view: str  # ViewPosition, or the meaning of the view code
    scanner: str  # ManufacturerModelName, or StationName


def make_worklist(*, count: int, catalog: Catalog, policy: WorklistPolicy, dry_run: bool = False) -> list[WorklistEntry]:
    """Choose up to `count` studies to label next, one per patient, and store the requests; with `dry_run` nothing is stored.

    Patients with a labelled study or with a recent request are excluded, and studies whose image is unusable. NoWeights where no
    version serves; TransientError where another list or a label was stored meanwhile.
    """
    with catalog.read() as tx:
        serving = versions.require_serving(tx)
        pool = _CandidatePool.load(tx, serving, policy)
        seed = policy.seed + pool.request_count  # differs from list to list
        second = _choose_second_readings(tx, serving, policy, count=count, seed=seed)
        selected = select_studies(pool.candidates, pool.history, policy.selection, count=count - len(second), seed=seed)
        entries = [pool.make_entry(study, serving, tx) for study in selected] + second
    if entries and not dry_run:
        _store_requests([entry.request for entry in entries], serving, catalog, policy)
    return entries


def list_open_entries(*, catalog: Catalog, chest: rules.ChestPolicy) -> list[WorklistEntry]:
    """Return the requests without a label, oldest first; then those for a second reading by one reader so far."""
    with catalog.read() as tx:
        requests = {request.study_instance_uid: request for request in tx.requests.all()}
        labelled = {label.study_instance_uid for label in tx.labels.of_studies(requests)}
        open_requests = {uid: request for uid, request in requests.items() if uid not in labelled}
        return _make_entries(tx, open_requests | _find_open_second_readings(tx), chest)


def _find_open_second_readings(tx: Transaction) -> dict[str, Request]:
    requests = {request.study_instance_uid: request for request in tx.second_readings.all()}
    readers = _find_readers(tx, {uid: request.finding for uid, request in requests.items()})
    return {uid: request for uid, request in requests.items() if len(readers.get(uid, ())) < 2}


def _find_readers(tx: Transaction, findings: Mapping[str, str]) -> dict[str, set[str]]:
    """Return StudyInstanceUID -> the readers with a label in force on the study's finding."""
    readers: dict[str, set[str]] = {}
    for label in labels_in_force(tx.labels.of_studies(findings)):
        if label.finding == findings[label.study_instance_uid]:
            readers.setdefault(label.study_instance_uid, set()).add(label.reader)
    return readers


def _make_entries(tx: Transaction, requests: Mapping[str, Request], chest: rules.ChestPolicy) -> list[WorklistEntry]:
    headers = _choose_headers(tx, requests, chest)
    numbers = tx.studies.accession_numbers(requests)
    return [
        WorklistEntry(request, numbers[uid], _describe_view(headers[uid]), _describe_scanner(headers[uid]))
        if uid in headers
        else WorklistEntry(request, "", "", "")
        for uid, request in requests.items()
    ]


def _choose_second_readings(
    tx: Transaction, serving: ModelVersion, policy: WorklistPolicy, *, count: int, seed: int
) -> list[WorklistEntry]:
    """Return the studies with the most doubtful labels of the newest round of learning, each read by one reader so far."""
    learnt = next((version for version in reversed(tx.versions.all()) if version.label_fingerprint), None)
    wanted = int(policy.second_readings * count + np.random.default_rng([seed, 2]).random())
    if learnt is None or not wanted:
        return []
    requested = {request.study_instance_uid for request in tx.second_readings.all()}
    doubts = {doubt["study"]: doubt["finding"] for doubt in reversed(learnt.card.get("learning", {}).get("doubts", ()))}
    readers = _find_readers(tx, doubts)
    chosen = [uid for uid in reversed(doubts) if uid not in requested and len(readers.get(uid, ())) == 1][:wanted]
    requests = {
        uid: Request(
            study_instance_uid=uid,
            selection_reason=rules.SECOND_READING,
            finding=doubts[uid],
            reason=f"second reading, by another reader than {next(iter(readers[uid]))}",
            selection_probability=1.0,
            version=serving.number,
            requested_at=tx.now(),
        )
        for uid in chosen
    }
    return _make_entries(tx, requests, policy.chest)


def _store_requests(requests: Sequence[Request], serving: ModelVersion, catalog: Catalog, policy: WorklistPolicy) -> None:
    with catalog.begin() as tx:
        tx.requests.lock()
        second = [request for request in requests if request.selection_reason == rules.SECOND_READING]
        requests = [request for request in requests if request.selection_reason != rules.SECOND_READING]
        studies = {request.study_instance_uid for request in requests}
        asked = {request.study_instance_uid for request in tx.second_readings.all()}
        expiry = policy.request_expiry_days
        candidates = tx.studies.label_candidates(serving.number, request_expiry_days=expiry, among=studies)
        if studies != candidates.keys() or asked & {request.study_instance_uid for request in second}:
            raise TransientError("another list was made, or a label came in, in between", hint="run it again")
        tx.requests.append(requests)
        tx.second_readings.append(second)
        reasons = [request.selection_reason for request in (*requests, *second)]
        counts = ", ".join(f"{reasons.count(reason)} {reason}" for reason in dict.fromkeys(reasons))
        tx.audit(AuditEvent("worklist", "done", f"version {serving.number}", f"{len(reasons)} studies asked for: {counts}"))


@dataclass(frozen=True)
class _CandidatePool:
    """The candidates of a list: N studies, row for row."""

    studies: Sequence[str]  # [N] StudyInstanceUIDs
    headers: Sequence[Header]  # [N] of each study's first frontal image
    candidates: CandidateStudies
    history: LabelHistory
    sampled_share: float  # share (0..1] of the archive's patients that were considered
    request_count: int  # earlier requests

    @classmethod
    def load(cls, tx: Transaction, serving: ModelVersion, policy: WorklistPolicy) -> _CandidatePool:
        """Load the candidates and the label history from the catalog."""
        requests = tx.requests.all()
        rng = np.random.default_rng([policy.seed, len(requests)])
        numbers, share = _draw_patients(tx.studies.highest_patient_number(), policy.max_patients, rng)
        patient_keys = tx.studies.label_candidates(serving.number, request_expiry_days=policy.request_expiry_days, patients=numbers)
        headers = _choose_headers(tx, patient_keys, policy.chest)
        unusable = tx.thumbnails.unusable_among([header.sop_instance_uid for header in headers.values()])
        studies = [uid for uid in patient_keys if uid in headers and headers[uid].sop_instance_uid not in unusable]
        delivered = tx.reports.first_sent(studies)
        strata = [f"{_describe_view(headers[uid])} {_describe_scanner(headers[uid])}" for uid in studies]
        return cls(
            studies=studies,
            headers=[headers[uid] for uid in studies],
            candidates=CandidateStudies(
                patient=np.array([patient_keys[uid] for uid in studies], dtype=np.str_),
                stratum=np.array(strata, dtype=np.str_),
                scores=_load_scores(tx, studies, serving.number),
                zero_shot_scores=_load_zero_shot_scores(tx, studies, serving),
                reported=np.array([uid in delivered for uid in studies], dtype=bool),
            ),
            history=_load_history(tx, requests, serving, policy),
            sampled_share=share,
            request_count=len(requests),
        )

    def make_entry(self, study: SelectedStudy, serving: ModelVersion, tx: Transaction) -> WorklistEntry:
        """Return the worklist entry of a selected study."""
        header = self.headers[study.row]
        sampled_share = self.sampled_share if study.reason is SelectionReason.MONITORING else 1.0
        request = Request(
            study_instance_uid=self.studies[study.row],
            selection_reason=study.reason.value,
            finding=study.finding,
            reason=self._describe_reason(study),
            selection_probability=study.probability * sampled_share,
            version=serving.number,
            requested_at=tx.now(),
        )
        return WorklistEntry(request, header.accession_number, _describe_view(header), _describe_scanner(header))

    def _describe_reason(self, study: SelectedStudy) -> str:
        if study.reason is SelectionReason.MONITORING:
            return "drawn at random, to measure versions; never used for training"
        if study.reason is SelectionReason.COVERAGE:
            return "unlike every labelled study"
        if study.reason is SelectionReason.UNCERTAINTY:
            return "the version in service is undecided"
        column = FINDINGS.index(study.finding)
        score, zero_shot = self.candidates.scores[study.row, column], self.candidates.zero_shot_scores[study.row, column]
        if study.reason is SelectionReason.DISAGREEMENT:
            return f"{study.finding}: {score:.2f}, by zero-shot {zero_shot:.2f}"
        return f"{study.finding}: {self.history.positives[column]:.0f} positives known, score {score:.2f} is among the highest"


def _draw_patients(patients: int, limit: int, rng: np.random.Generator) -> tuple[Collection[int] | None, float]:
    """Return the numbers of `limit` random patients and their share of all; None and 1 where there are at most `limit`.

    The sample is drawn before any exclusion, so every candidate's probability of being in it is exactly the share.
    """
    if patients <= limit:
        return None, 1.0
    return [int(number) + 1 for number in rng.choice(patients, size=limit, replace=False)], limit / patients


def _choose_headers(tx: Transaction, studies: Collection[str], chest: rules.ChestPolicy) -> dict[str, Header]:
    """Return StudyInstanceUID -> the header of its first frontal image, of the studies that have one."""
    chosen = ((uid, rules.choose_images(instances, chest).images) for uid, instances in tx.studies.instances_of(studies).items())
    return {uid: images[0].header for uid, images in chosen if images}


def _describe_view(header: Header) -> str:
    return header.view_position.upper().strip() or header.view_code_meaning or "view not stated"


def _describe_scanner(header: Header) -> str:
    return header.manufacturer_model_name or header.station_name or "scanner not stated"


def _load_scores(tx: Transaction, studies: Sequence[str], version: int) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Return float64 [N, 14]; NaN in the rows of studies that the version has not scored."""
    probabilities = tx.scores.study_scores(studies, version)
    unscored = np.full(len(FINDINGS), np.nan)
    return np.array([probabilities.get(uid, unscored) for uid in studies], dtype=np.float64).reshape(len(studies), len(FINDINGS))


def _load_zero_shot_scores(
    tx: Transaction, studies: Sequence[str], serving: ModelVersion
) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Return float64 [N, 14] of the newest other version without training labels on the serving version's base; NaN without one."""
    zero_shot = [
        version.number
        for version in tx.versions.all()
        if not version.label_fingerprint
        and version.base == serving.base
        and version.number != serving.number
        and version.state is not VersionState.REJECTED
    ]
    return _load_scores(tx, studies, zero_shot[-1] if zero_shot else 0)


def _load_history(tx: Transaction, requests: Sequence[Request], serving: ModelVersion, policy: WorklistPolicy) -> LabelHistory:
    consensus = resolve_consensus(tx.labels.all(), policy.labels)
    positive = consensus.targets(consensus.studies) == PRESENT
    monitoring = {request.study_instance_uid for request in requests if request.selection_reason == SelectionReason.MONITORING}
    in_training = [uid not in monitoring for uid in consensus.studies]
    positive_of_study = dict(zip(consensus.studies, positive, strict=True))
    searched, search_positives = np.zeros(len(FINDINGS)), np.zeros(len(FINDINGS))
    for request in requests:
        if request.selection_reason == SelectionReason.POSITIVES and request.study_instance_uid in positive_of_study:
            column = FINDINGS.index(request.finding)
            searched[column] += 1
            search_positives[column] += positive_of_study[request.study_instance_uid][column]
    read_or_requested = sorted({*consensus.studies, *(request.study_instance_uid for request in requests)})
    scores = _load_scores(tx, read_or_requested, serving.number)
    return LabelHistory(
        positives=positive[in_training].sum(axis=0).astype(np.float64),
        searched=searched,
        search_positives=search_positives,
        read_scores=scores[np.isfinite(scores).all(axis=1)],
    )
