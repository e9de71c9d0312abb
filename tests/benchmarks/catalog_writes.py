"""Writes to a catalog: received films, an archive rescored by the score step, and predictions alone.

`by_orm` writes predictions as a user of SQLAlchemy's ORM would, `session.merge` for each row, and a commit for each study.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from sqlalchemy import create_engine
from sqlalchemy.orm import Session, registry

from adapters.app.workers import MAX_BATCHES_PER_CLAIM
from adapters.catalog.catalog import SqlCatalog
from adapters.catalog.engine import database_url
from adapters.catalog.tables import predictions
from pipeline import receive, rescore, rules, score, work
from pipeline.domain import (
    FINDINGS,
    Decision,
    Header,
    Image,
    JobKind,
    JobState,
    ModelVersion,
    Prediction,
    Scale,
    Scores,
    Sender,
    StoredInstance,
    VersionState,
)
from pipeline.ports.services import Transaction
from tests.builders.fakes.images import FakeImageReader, FakeImageStore
from tests.builders.fakes.models import FakeScorer, FakeScorers
from tests.builders.large_archive import SERVING, LargeArchive

REPEATS = 20
BATCH = 16
"""`[score] batch_size` as shipped."""
TOGETHER = MAX_BATCHES_PER_CLAIM * BATCH
"""Studies with all activations cached: number that the score step commits in one transaction."""
RECEIVED, SCORED_AGAIN, WRITTEN, ROUNDS = 100, 640, 1280, 3
"""Studies, and how often those are written."""


class _Recalled(FakeScorer):
    """Scorer port with all activations cached: only the catalog's work remains."""

    def score_cached(self, instances: Sequence[StoredInstance]) -> dict[str, Scores]:
        return {film.header.sop_instance_uid: np.linspace(0.1, 0.8, len(FINDINGS), dtype=np.float32) for film in instances}

    def score(self, images: Sequence[Image], instances: Sequence[StoredInstance] = ()) -> Scores:
        raise AssertionError("nothing is left to score")


class _Recalling(FakeScorers):
    """Scorers port of recalled scores."""

    def load(self, version: ModelVersion) -> _Recalled:
        return _Recalled(version)


def writes(catalog: SqlCatalog, archive: LargeArchive, processor: Callable[[], float]) -> dict[str, Any]:
    """Receive studies, queue the archive for rescoring by a third version, and score a part of it."""
    received, _ = _taken(lambda: _receive(catalog, RECEIVED), processor)
    with catalog.begin() as tx:
        serving = tx.versions.serving()
        assert serving is not None
        third = replace(serving, number=SERVING + 1, device_uid="2.25.33", state=VersionState.CANDIDATE)
        tx.versions.add(third)
        tx.versions.serve(third.number)
    queued: list[int] = []
    line, line_processor = _taken(lambda: queued.append(rescore.rescore(catalog=catalog)), processor)
    post, count = _post(catalog), min(SCORED_AGAIN, queued[0])
    with catalog.read() as tx:
        done = tx.jobs.count_by_state().get((JobKind.SCORE, JobState.DONE), 0)

    def scored() -> None:
        left = count
        while left > 0:
            left -= work.work_once(post, catalog=catalog, worker="bench", policy=work.WorkPolicy())

    again, again_processor = _taken(scored, processor)
    with catalog.read() as tx:
        assert tx.jobs.count_by_state()[JobKind.SCORE, JobState.DONE] >= done + count, "steps have failed: nothing was measured"
    written = [_taken(partial(_write, catalog, archive), processor) for _ in range(ROUNDS)]
    predictions = len(_written(archive)) * len(FINDINGS)
    return {
        "received_a_second": round(RECEIVED / received, 1),
        "put_in_line_ms_a_study": round(1000 * line / queued[0], 3),
        "put_in_line_processor_ms": round(1000 * line_processor / queued[0], 3),
        "scored_again_ms_a_study": round(1000 * again / count, 3),
        "scored_again_processor_ms": round(1000 * again_processor / count, 3),
        "predictions_scored_a_second": round(count * len(FINDINGS) / again, 1),
        "predictions_written_a_second": [round(predictions / seconds, 1) for seconds, _ in written],
        "predictions_written_a_processor_second": [round(predictions / seconds, 1) for _, seconds in written],
        **_steps(catalog, processor),
    }


def _taken(act: Callable[[], object], processor: Callable[[], float]) -> tuple[float, float]:
    """Return seconds of wall time and of CPU time."""
    begun, before = time.perf_counter(), processor()
    act()
    return time.perf_counter() - begun, processor() - before


def _written(archive: LargeArchive) -> list[str]:
    return [archive.study_uid(study) for study in range(1, archive.studies, max(1, archive.studies // WRITTEN))][:WRITTEN]


def _write(catalog: SqlCatalog, archive: LargeArchive) -> None:
    """Write the predictions of studies and each study's revision, as the score step does, TOGETHER in a transaction."""
    studies = _written(archive)
    for start in range(0, len(studies), TOGETHER):
        with catalog.begin() as tx:
            uids = studies[start : start + TOGETHER]
            revisions = tx.studies.next_revisions(uids)
            tx.scores.put_predictions(SERVING + 1, {uid: _said() for uid in uids}, revisions=revisions)


def _post(catalog: SqlCatalog) -> work.WorkerSpec:
    policy = score.ScorePolicy(aggregate="max", chest=rules.ChestPolicy(), batch_size=BATCH)
    step = partial(score.score, catalog=catalog, pixels=FakeImageReader(), scorers=_Recalling(), policy=policy)
    return work.WorkerSpec(
        kind=JobKind.SCORE, step=step, claim_sizer=work.ClaimSizer(target_seconds=60.0, min_jobs=BATCH, max_jobs=TOGETHER)
    )


def _receive(catalog: SqlCatalog, count: int) -> None:
    images, policy = FakeImageStore(), receive.ReceivePolicy(min_free_bytes=0)
    for number in range(count):
        uid = f"1.2.9.{number}"
        header = Header(
            sop_instance_uid=f"{uid}.1.1",
            sop_class_uid=rules.DIGITAL_X_RAY_FOR_PRESENTATION,
            series_instance_uid=f"{uid}.1",
            study_instance_uid=uid,
            transfer_syntax_uid="1.2.840.10008.1.2.1",
            patient_id=f"N{number}",
        )
        receive.receive(header, uid.encode(), Sender("PACS", "h", "RADCLIPD"), catalog=catalog, images=images, policy=policy)


def _steps(catalog: SqlCatalog, processor: Callable[[], float]) -> dict[str, float]:
    """Return the median milliseconds of frequent worker transactions."""
    taken: dict[str, list[float]] = {"claim_and_finish_ms": [], "quiet_ms": [], "newest_ms": [], "nothing_unscored_ms": []}
    before = processor()
    for _ in range(REPEATS):
        begun = time.perf_counter()
        with catalog.begin() as tx:
            jobs = tx.jobs.claim([JobKind.SCORE], worker="bench", lease_seconds=60)
        for job in jobs:
            with catalog.begin() as tx:
                tx.jobs.finish(job)
        taken["claim_and_finish_ms"].append(time.perf_counter() - begun)
    computed = processor() - before
    for _ in range(REPEATS):
        for name, ask in _LOOKS.items():
            begun = time.perf_counter()
            with catalog.read() as tx:
                ask(tx)
            taken[name].append(time.perf_counter() - begun)
    found = {name: round(1000 * statistics.median(seconds), 2) for name, seconds in taken.items()}
    return found | {"claim_and_finish_processor_ms": round(1000 * computed / REPEATS, 2)}


_LOOKS: Mapping[str, Callable[[Transaction], object]] = {
    "quiet_ms": lambda tx: tx.studies.stable_studies(seconds=0, released=True, limit=200),
    "newest_ms": lambda tx: tx.studies.newest_complete(limit=500),
    "nothing_unscored_ms": lambda tx: tx.studies.unscored(
        SERVING,
        limit=500,
        numbers=range(max(1, tx.studies.highest_study_number() - rescore.STUDIES_PER_SPAN), tx.studies.highest_study_number()),
    ),
}


class _Predicted:
    """A row of predictions, mapped by the ORM."""

    def __init__(self, **values: Any) -> None:
        for name, value in values.items():
            setattr(self, name, value)


registry().map_imperatively(_Predicted, predictions)
COMPARED = 40
"""Studies of each way in each round."""


def _said() -> list[Prediction]:
    return [Prediction(finding, 0.5, Decision.ABSENT, Scale.BAND, likelihood=0.5, excess=0.0) for finding in FINDINGS]


def by_orm(url: str, archive: LargeArchive) -> None:
    """Merge every row, and commit each study."""
    engine = create_engine(database_url(url))
    for study in _some(archive):
        with Session(engine) as session:
            for said in _said():
                row = {"finding": said.finding, "score": said.score, "decision": said.decision.value, "scale": said.scale.value}
                row |= {"likelihood": said.likelihood, "excess": said.excess}
                session.merge(_Predicted(study=study, version=SERVING, revision=9, **row))
                session.flush()
            session.commit()
    engine.dispose()


def by_us(catalog: SqlCatalog, archive: LargeArchive) -> None:
    """Commit each study, too."""
    for study in _some(archive):
        uid = archive.study_uid(study)
        with catalog.begin() as tx:
            tx.scores.put_predictions(SERVING, {uid: _said()}, revisions={uid: 9})


def _some(archive: LargeArchive) -> list[int]:
    step = max(1, archive.studies // COMPARED)
    return list(range(1, archive.studies, step))[:COMPARED]
