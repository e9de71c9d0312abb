"""An archive of any size, written into the tables: the rows that a radiography room with 550 studies a day accumulates.

Rows only, no files: by COPY on PostgreSQL, by executemany on SQLite. Archives of the same size are equal, whatever the day. Recent
rows (arriving studies, waiting jobs, today's findings) are as many in a large archive as in a small one.
"""

from __future__ import annotations

import json
import random
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import psycopg

from adapters.catalog.engine import database_url
from adapters.catalog.studies import HEADER_COLUMNS
from adapters.catalog.tables import TABLES
from pipeline.decisions import log_odds
from pipeline.domain import FINDINGS, Header
from pipeline.rules import DIGITAL_X_RAY_FOR_PRESENTATION as DX

A_DAY = 550
STUDIES_A_PATIENT = 1.7
ASKED_FOR, REFUSED, RESCORED = 500, 900, 14
"""One of this many studies was requested, its report refused, or scored again."""
ARRIVING, SETTLED, SCORED = 10, 10, 20
"""Number of the newest studies that are in each of these states; in a small archive a tenth of the studies at most."""
KEPT_DAYS, KINDS = 30, ("score", "report", "send")
"""Done jobs are kept for KEPT_DAYS, `[work] keep_done_days`."""
SERVING = 2
SCANNERS = ("Ysio", "DigitalDiagnost", "Definium 8000", "DRX-Evolution")
READERS = ("alice", "bob", "carol")
PRESENT, UNDETERMINED = 0.92, 0.85
"""Lowest probability of each decision."""
_HEADER = tuple(one.name for one in fields(Header))
Row = tuple[Any, ...]


@dataclass(frozen=True)
class LargeArchive:
    """An archive of `studies` studies, numbered from 1, the last one received now."""

    studies: int
    labelled: int = 400  # one of this many studies has labels
    now: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def patients(self) -> int:
        return max(1, round(self.studies / STUDIES_A_PATIENT))

    def study_uid(self, study: int) -> str:
        return f"1.2.826.0.1.3680043.10.1.{10**9 + study}"

    def report_uid(self, study: int, version: int) -> str:
        return f"2.25.{study:012d}{version:03d}"

    def accession_number(self, study: int) -> str:
        return f"A{study:09d}"

    def moment(self, study: int, seconds: float = 0) -> str:
        at = (
            self.now
            - timedelta(days=(self.studies - study) / A_DAY)
            + timedelta(seconds=min(seconds, 0.1 * (self.studies - study)))
        )
        return f"{at:%Y-%m-%d %H:%M:%S}.{at.microsecond // 1000:03d}+00:00"

    def state(self, study: int) -> str:
        few = self.studies // 10
        left = self.studies - study
        for state, count in (("arriving", ARRIVING), ("settled", SETTLED), ("scored", SCORED)):
            if left < min(count, few):
                return state
            left -= min(count, few)
        if study % 50 == 0:
            return "ignored"
        return "scored" if study % REFUSED == 0 else "reported"

    def versions_of(self, study: int) -> tuple[int, ...]:
        """Return the versions that have scored the study: the serving one, and for some studies an earlier one, too."""
        if self.state(study) not in ("scored", "reported"):
            return ()
        return (1, SERVING) if study % RESCORED == 0 else (SERVING,)

    def fill(self, url: str) -> None:
        """Fill every table of a catalog that has its schema and no rows."""
        load = _copy if url.startswith("postgresql") else _executemany
        load(url, {table.name: _ROWS[table.name](self) for table in TABLES if table.name in _ROWS})


def _executemany(url: str, tables: dict[str, Iterator[Row]]) -> None:
    with closing(sqlite3.connect(str(database_url(url).database), isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = OFF")
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("PRAGMA cache_size = -524288")
        connection.execute("BEGIN IMMEDIATE")
        for table, rows in tables.items():
            places = ", ".join("?" * len(_COLUMNS[table].split(", ")))
            connection.executemany(f"INSERT INTO {table} ({_COLUMNS[table]}) VALUES ({places})", rows)
        connection.execute("COMMIT")
        connection.execute("PRAGMA journal_mode = WAL")


def _copy(url: str, tables: dict[str, Iterator[Row]]) -> None:
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute("SET session_replication_role = replica")  # without foreign key checks: all references exist
        connection.execute("SET synchronous_commit = off")
        for table, rows in tables.items():
            with connection.cursor().copy(f"COPY {table} ({_COLUMNS[table]}) FROM STDIN") as copy:
                for row in rows:
                    copy.write_row(row)
            if "id" in _COLUMNS[table].split(", "):
                connection.execute(f"SELECT setval('{table}_id_seq', (SELECT max(id) FROM {table}))")
        connection.execute("VACUUM ANALYZE")


def _patients(archive: LargeArchive) -> Iterator[Row]:
    for patient in range(1, archive.patients + 1):
        yield patient, f"P{patient:08d}\\H", f"P{patient:08d}", "H", "FM"[patient % 2]


def _patient_of(archive: LargeArchive, study: int) -> int:
    return study * 7919 % archive.patients + 1


def _studies(archive: LargeArchive) -> Iterator[Row]:
    for study in range(1, archive.studies + 1):
        at, state = archive.moment(study), archive.state(study)
        reason = "no frontal chest image" if state == "ignored" else ""
        revision = len(archive.versions_of(study))
        day = at[:10].replace("-", "")
        yield (
            *(study, archive.study_uid(study), _patient_of(archive, study), archive.accession_number(study), day, "081500"),
            *("Thorax in 2 Ebenen", "061Y", state, reason, revision, _films(study), False, at, archive.moment(study, 40)),
        )


def _films(study: int) -> int:
    return 2 if study % 3 == 0 else 1


def _series(archive: LargeArchive) -> Iterator[Row]:
    for study in range(1, archive.studies + 1):
        yield study, f"{archive.study_uid(study)}.1", study, "DX", 1, "Thorax"


def _header(archive: LargeArchive, study: int, film: int) -> Header:
    uid = archive.study_uid(study)
    return Header(
        sop_instance_uid=f"{uid}.1.{film}",
        sop_class_uid=DX,
        series_instance_uid=f"{uid}.1",
        study_instance_uid=uid,
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        patient_id=f"P{_patient_of(archive, study):08d}",
        issuer_of_patient_id="H",
        accession_number=archive.accession_number(study),
        modality="DX",
        instance_number=film,
        body_part_examined="CHEST",
        manufacturer="Siemens",
        manufacturer_model_name=SCANNERS[study % len(SCANNERS)],
        view_position="PA" if film == 1 else "LL",
        image_type=("DERIVED", "PRIMARY"),
        presentation_intent_type="FOR PRESENTATION",
        rows=2560,
        columns=2048,
        has_pixels=True,
    )


def _instances(archive: LargeArchive) -> Iterator[Row]:
    number = 0
    for study in range(1, archive.studies + 1):
        for film in range(1, _films(study) + 1):
            number += 1
            header = _header(archive, study, film)
            kept = {name: getattr(header, name) for name in _HEADER}
            own = [kept.pop(name) for name in HEADER_COLUMNS]
            digest = f"{number:064x}"
            yield (
                *(number, study, *own, json.dumps(kept), f"{digest[:2]}/{digest[2:4]}/{digest}.dcm", digest, 10_500_000),
                *(f"CR{study % 4}", "10.0.0.7", "RADCLIPD", archive.moment(study, 10 * film)),
            )


def _model_versions(archive: LargeArchive) -> Iterator[Row]:
    thresholds, first = json.dumps(dict.fromkeys(FINDINGS, 0.9)), archive.moment(1)
    card = {"preprocess": {"fingerprint": "p" * 64}, "prompts": {"fingerprint": "q" * 64}, "calibration": {"kind": "platt"}}
    for number, state in ((1, "retired"), (SERVING, "serving")):
        yield (
            *(number, state, f"stage-1 {number}", "base", "0" * 64, f"2.25.{number}", "", number == SERVING, "", thresholds, 0.05),
            *("", json.dumps(card), first, first, first if state == "retired" else None),
        )


def _image_scores(archive: LargeArchive) -> Iterator[Row]:
    number, vector = 0, np.linspace(0.05, 0.95, len(FINDINGS), dtype="<f4").tobytes()
    for study in range(1, archive.studies + 1):
        films, versions = _films(study), archive.versions_of(study)
        for version in versions:
            yield number + 1, version, vector, archive.moment(study, 70)  # the frontal film
        number += films


def _predictions(archive: LargeArchive) -> Iterator[Row]:
    chance = random.Random(0)
    for study in range(1, archive.studies + 1):
        versions = archive.versions_of(study)
        at = archive.moment(study, 70) if versions else ""
        for revision, version in enumerate(versions, 1):
            for finding in sorted(FINDINGS):
                likely = chance.random()
                said = "present" if likely >= PRESENT else "undetermined" if likely >= UNDETERMINED else "absent"
                excess = log_odds(likely) - log_odds(PRESENT)
                yield study, version, finding, likely, said, revision, at, "probability", likely, None, excess, None, ""


def _labels(archive: LargeArchive) -> Iterator[Row]:
    number = 0
    for study in range(1, archive.studies + 1, archive.labelled):
        turn = study // archive.labelled
        document = f"2.25.9{study:012d}" if turn % 3 == 0 else ""
        lot = turn % 5 == 0
        for finding in FINDINGS:
            number += 1
            state = ("absent", "present", "uncertain")[(study + len(finding)) % 7 % 3]
            yield (
                *(number, study, finding, state, READERS[turn % 3], "sr" if document else "csv", "monitoring" if lot else ""),
                *(0.01 if lot else None, archive.moment(study, 90000), archive.moment(study, 86400), document),
            )


def _requests(archive: LargeArchive) -> Iterator[Row]:
    for number, study in enumerate(range(2, archive.studies + 1, ASKED_FOR), 1):
        reason, finding = ("monitoring", "") if number % 5 == 0 else ("positives", FINDINGS[number % len(FINDINGS)])
        yield number, study, reason, finding, "score 0.93 is among the highest", 0.01, SERVING, archive.moment(study, 86400)


def _reports(archive: LargeArchive) -> Iterator[Row]:
    number = 0
    for study in range(1, archive.studies + 1):
        for revision, version in enumerate(archive.versions_of(study), 1):
            number += 1
            last, stands = version == SERVING, archive.state(study)
            state = "sent" if stands == "reported" or not last else "refused" if study % REFUSED == 0 else "built"
            uid, digest = archive.report_uid(study, version), f"{number:064x}"
            yield (
                *(number, uid, f"{uid}.1", study, version, revision, "1.2.840.10008.5.1.4.1.1.88.33", state, None),
                *(f"{digest[:2]}/{digest}.dcm", digest, 12_000, "0x0000", archive.moment(study, 71), archive.moment(study, 72)),
                archive.moment(study, 73) if state == "sent" else None,
            )


def _jobs(archive: LargeArchive) -> Iterator[Row]:
    number = 0
    for study in range(max(1, archive.studies - KEPT_DAYS * A_DAY), archive.studies + 1):
        reached = {"arriving": 0, "settled": 0, "scored": 1, "ignored": 0, "reported": 3}[archive.state(study)]
        for kind in KINDS[:reached]:
            number += 1
            at = archive.moment(study, 70)
            yield number, kind, archive.study_uid(study), "{}", "done", 100, at, 1, "", "", None, "", at, at
        if archive.state(study) == "settled":
            number += 1
            at = archive.moment(study)
            yield number, "score", archive.study_uid(study), "{}", "waiting", 100, at, 0, "", "", None, "", at, None
    for lost in range(1, 41):
        number += 1
        at = archive.moment(archive.studies)
        yield number, "send", f"2.25.7{lost}", "{}", "quarantined", 100, at, 8, "", "", None, "refused: 0xC000", at, at


def _audit_events(archive: LargeArchive) -> Iterator[Row]:
    for number, study in enumerate(range(1, archive.studies + 1, 20), 1):
        yield number, archive.moment(study), "store", "refused", archive.study_uid(study), "0xC001", "PACS"


_COLUMNS = {
    "patients": "id, patient_key, patient_id, issuer_of_patient_id, patient_sex",
    "studies": "id, study_instance_uid, patient, accession_number, study_date, study_time, study_description, patient_age, state,"
    " reason, revision, instance_count, released, received_at, last_received_at",
    "series": "id, series_instance_uid, study, modality, series_number, series_description",
    "instances": f"id, series, {', '.join(HEADER_COLUMNS)}, header, file_key, file_sha256, file_size, sender_ae_title,"
    " sender_address, called_ae_title, received_at",
    "model_versions": "number, state, name, base, weights_sha256, device_uid, notice, calibrated, label_fingerprint, thresholds,"
    " undetermined_margin, reason, card, created_at, served_at, retired_at",
    "image_scores": "instance, version, scores, created_at",
    "predictions": "study, version, finding, score, decision, revision, predicted_at, scale, likelihood, percentile, excess,"
    " reference, reason",
    "labels": "id, study, finding, state, reader, source, selection_reason, selection_probability, created_at, stated_at, document",
    "requests": "id, study, selection_reason, finding, reason, selection_probability, version, requested_at",
    "reports": "id, sop_instance_uid, series_instance_uid, study, version, revision, sop_class_uid, state, predecessor, file_key,"
    " file_sha256, file_size, status, created_at, built_at, sent_at",
    "jobs": "id, kind, subject, payload, state, priority, run_at, attempts, worker, lease_token, lease_until, error, created_at,"
    " finished_at",
    "audit_events": "id, at, action, outcome, subject, detail, source",
}
_ROWS: dict[str, Callable[[LargeArchive], Iterator[Row]]] = {
    "patients": _patients,
    "studies": _studies,
    "series": _series,
    "instances": _instances,
    "model_versions": _model_versions,
    "image_scores": _image_scores,
    "predictions": _predictions,
    "labels": _labels,
    "requests": _requests,
    "reports": _reports,
    "jobs": _jobs,
    "audit_events": _audit_events,
}
