"""The catalog at size: `python -m tests.benchmarks.catalog [--studies 1000 100000] [--engines sqlite] [--plot FILE] [--json]`.

Fills a catalog with an archive (`tests/large_archive.py`, 15 predictions a study) and measures what people and workers ask of it:
every query of the SQL cookbook, every listing of the command line (`--json`, in this process), the queue, what receiving commits,
and the scores of an archive that is scored again, through `pipeline.score` itself. What takes longer than 100 ms tells its plan.

`vs_orm_per_row`: predictions committed study by study as a user of SQLAlchemy's ORM would, `session.merge` for each row, against
`put_predictions`, in turns. PostgreSQL runs as Debian ships it, fsync on. A million studies take 5 GB on each database, some
minutes to fill, and are removed at the end.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import create_engine
from sqlalchemy.orm import Session, registry
from typer.main import get_command

from adapters.catalog import query, schema
from adapters.catalog.catalog import SqlCatalog
from adapters.catalog.engine import database_url
from adapters.catalog.tables import predictions
from adapters.cli import app
from pipeline import receive, rescore, rules, score, work
from pipeline.domain import (
    FINDINGS,
    Decision,
    Header,
    Image,
    JobKind,
    ModelVersion,
    Prediction,
    Scores,
    Sender,
    StoredInstance,
    VersionState,
)
from pipeline.pace import Pace
from tests import postgres
from tests.benchmarks.films import ratio, side_by_side, tell
from tests.fakes import FakeImageReader, FakeImageStore
from tests.large_archive import RESCORED, SERVING, LargeArchive

ROOT = Path(__file__).parents[2]
BOUND_MS = 100.0
REPEATS = 20
SCORED_AGAIN, BATCH = 400, 8
"""Studies, and `[score] batch_size` as shipped."""
WRITTEN, TOGETHER = 640, 64
"""Studies whose predictions alone are written, and how many of them in a transaction."""
RADCLIPD = get_command(app)
LISTINGS: Mapping[str, tuple[str, ...]] = {
    "studies": ("studies",),
    "jobs": ("jobs",),
    "jobs done": ("jobs", "--state", "done"),
    "reports list": ("reports", "list"),
    "quarantine list": ("quarantine", "list"),
    "labels list": ("labels", "list"),
    "labels list --reader": ("labels", "list", "--reader", "alice"),
    "labels list --study": ("labels", "list", "--study", "{labelled}"),
    "labels conflicts": ("labels", "conflicts"),
    "versions": ("versions",),
    "worklist --open": ("worklist", "--open"),
}
TYPICAL: Mapping[str, str] = {
    "v_studies of a patient": "SELECT * FROM v_studies WHERE patient_id = '{patient}' ORDER BY study_date",
    "v_studies of a day": "SELECT * FROM v_studies WHERE study_date = '{date}'",
    "v_instances of a study": "SELECT * FROM v_instances WHERE study_instance_uid = '{study}'",
    "v_predictions of a study": "SELECT * FROM v_predictions WHERE study_instance_uid = '{study}'",
    "v_findings_wide, twenty": "SELECT * FROM v_findings_wide LIMIT 20",
    "v_reports of a study": "SELECT * FROM v_reports WHERE study_instance_uid = '{study}'",
    "v_labels of a study": "SELECT * FROM v_labels WHERE study_instance_uid = '{labelled}'",
    "v_worklist, latest": "SELECT * FROM v_worklist ORDER BY asked_at DESC LIMIT 20",
    "v_jobs of a study": "SELECT * FROM v_jobs WHERE kind = 'score' AND subject = '{study}' AND state = 'waiting'",
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, nargs="+", default=[1_000, 100_000])
    parser.add_argument("--engines", nargs="+", choices=("sqlite", "postgresql"), default=["sqlite", "postgresql"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--plot", type=Path, help="Draw what a study costs at each size: .svg or .png.")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    measured: dict[str, Any] = {"rounds": options.rounds}
    ratios: dict[str, dict[str, float]] = {}
    for engine in options.engines:
        for size in options.studies:
            with _filled(engine, size) as (url, seconds):
                found, of_orm = measure(url, LargeArchive(size), rounds=options.rounds)
            measured[f"{engine} {size}"] = {"fill_ms_a_study": round(1000 * seconds / size, 3), **found}
            name = "vs_orm_per_row" if engine == "sqlite" else f"vs_orm_per_row_{engine}"
            ratios[name] = of_orm  # of the largest
    if options.plot:
        from tests.benchmarks.catalog_plot import draw

        draw(options.plot, measured)
    tell(measured | {"ratios": ratios}, as_json=options.json)


@contextlib.contextmanager
def _filled(engine: str, size: int) -> Iterator[tuple[str, float]]:
    """Give the URL of a filled catalog, and the seconds that it took to fill."""
    with contextlib.ExitStack() as stack:
        if engine == "postgresql":
            url = stack.enter_context(postgres.cluster(durable=True)).upgraded()
        else:
            url = f"sqlite:///{stack.enter_context(tempfile.TemporaryDirectory())}/catalog.db"
            schema.upgrade(url)
        begun = time.perf_counter()
        LargeArchive(size).fill(url)
        yield url, time.perf_counter() - begun


def measure(url: str, archive: LargeArchive, *, rounds: int) -> tuple[dict[str, Any], dict[str, float]]:
    """Return milliseconds of each thing asked and done, the plans of slow ones, and how many times longer the ORM takes."""
    named = names(archive)
    asked: dict[str, Callable[[], object]] = {name: partial(query.run, url, sql) for name, sql in queries(named).items()}
    listed: dict[str, Callable[[], object]] = {
        f"radclipd {name}": partial(_verb, url, [one.format(**named) for one in words]) for name, words in LISTINGS.items()
    }
    p95 = {name: _p95(act) for name, act in {**asked, **listed}.items()}
    slow = {name: _plan(url, queries(named)[name]) for name, ms in p95.items() if ms > BOUND_MS and name in asked}
    begun = time.perf_counter()
    _verb(url, ["worklist", "--n", "20", "--dry-run"])
    worklist = {"worklist_seconds": round(time.perf_counter() - begun, 2)}
    catalog = SqlCatalog(url)
    try:
        done = worklist | _writes(catalog, archive)
        seconds = side_by_side({"orm": partial(_by_orm, url, archive), "ours": partial(_by_us, catalog, archive)}, rounds=rounds)
    finally:
        catalog.dispose()
    return {"p95_ms": p95, "over_100_ms": slow, **done}, ratio(seconds["orm"], seconds["ours"])


def names(archive: LargeArchive) -> dict[str, str]:
    """Return what a person would look up: somewhere in the middle of the archive."""
    study = max(archive.studies // 2 // RESCORED * RESCORED, 1)
    labelled = 1 + 3 * archive.labelled if archive.studies > 3 * archive.labelled else 1
    return {
        "study": archive.study_uid(study),
        "labelled": archive.study_uid(labelled),
        "patient": f"P{archive.patients // 2:08d}",
        "date": archive.moment(study)[:10].replace("-", ""),
        "report": archive.report_uid(study, SERVING),
        "document": f"2.25.9{labelled:012d}",
        "accession": archive.accession_number(study),
    }


def queries(named: Mapping[str, str]) -> dict[str, str]:
    page = (ROOT / "deploy/docs/sql-cookbook.md").read_text()
    found = {name: sql.format(**named) for name, sql in TYPICAL.items()}
    for title, sql in re.findall(r"([^\n]+):\n\n```sql\n(.*?)```", page, re.DOTALL):
        uid = named["report" if "v_lineage" in sql else "document"]
        found[title] = sql.replace("'2.25.1'", f"'{uid}'").replace("'A1'", f"'{named['accession']}'")
    return found


def _p95(act: Callable[[], object]) -> float:
    """Milliseconds; the first time, which fills the caches, is left out. What takes seconds is not asked often."""
    taken: list[float] = []
    act()
    while len(taken) < REPEATS and sum(taken) < 10:
        begun = time.perf_counter()
        act()
        taken.append(time.perf_counter() - begun)
    return round(1000 * float(np.percentile(taken, 95)), 1)


def _plan(url: str, sql: str) -> list[str]:
    how = "EXPLAIN QUERY PLAN" if url.startswith("sqlite") else "EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF)"
    return [str(row[-1]) for row in query.run(url, f"{how} {sql}")[1]]


def _verb(url: str, words: list[str]) -> None:
    os.environ |= {"RADCLIPD_CONFIG": str(ROOT / "deploy/radclipd.toml"), "RADCLIPD_CATALOG__URL": url}
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        RADCLIPD.main([*words, "--json"], standalone_mode=False)


class _Recalled:
    """ports.Scorers and ports.Scorer whose films were all kept: what is left is the catalog's part."""

    room = 0

    def __init__(self, version: ModelVersion) -> None:
        self.version = version

    def load(self, version: ModelVersion) -> _Recalled:
        return self

    def recall(self, films: list[StoredInstance]) -> dict[str, Scores]:
        return {film.header.sop_instance_uid: np.linspace(0.1, 0.8, len(FINDINGS), dtype=np.float32) for film in films}

    def score(self, images: list[Image], films: list[StoredInstance] = ()) -> Scores:  # type: ignore[assignment]
        raise AssertionError("nothing is left to score")


def _writes(catalog: SqlCatalog, archive: LargeArchive) -> dict[str, float]:
    """Receive studies, put the archive in line to be scored again by a third version, and score some of it."""
    received = _per_second(lambda: _receive(catalog, 100), 100)
    with catalog.begin() as tx:
        serving = tx.versions.serving()
        assert serving is not None
        third = replace(serving, number=SERVING + 1, device_uid="2.25.33", state=VersionState.CANDIDATE)
        tx.versions.add(third)
        tx.versions.serve(third.number)
    begun = time.perf_counter()
    queued = rescore.rescore(catalog=catalog)
    line = (time.perf_counter() - begun) / max(queued, 1)
    post = _post(catalog, third)
    count = min(SCORED_AGAIN, queued)

    def scored() -> None:
        left = count
        while left > 0:
            left -= work.work_once(post, catalog=catalog, worker="bench", policy=work.WorkPolicy())

    rate = _per_second(scored, count)
    return {
        "received_a_second": round(received, 1),
        "put_in_line_ms_a_study": round(1000 * line, 3),
        "scored_again_ms_a_study": round(1000 / rate, 3),
        "predictions_scored_a_second": round(rate * len(FINDINGS), 1),
        "predictions_written_a_second": round(_written(catalog, archive), 1),
        **_steps(catalog),
    }


def _written(catalog: SqlCatalog, archive: LargeArchive) -> float:
    """Write the predictions of studies, so many in a transaction, and each study's revision."""
    studies = [archive.study_uid(study) for study in range(1, archive.studies, max(1, archive.studies // WRITTEN))][:WRITTEN]

    def write() -> None:
        for start in range(0, len(studies), TOGETHER):
            with catalog.begin() as tx:
                some = studies[start : start + TOGETHER]
                tx.scores.put_predictions(SERVING + 1, {uid: _said() for uid in some}, tx.studies.next_revisions(some))

    return _per_second(write, len(studies) * len(FINDINGS))


def _post(catalog: SqlCatalog, version: ModelVersion) -> work.Post:
    policy = score.ScorePolicy(combine="max", chest=rules.ChestPolicy())
    step = partial(score.score, catalog=catalog, pixels=FakeImageReader(), scorers=_Recalled(version), policy=policy)  # type: ignore[arg-type]
    return work.Post(kind=JobKind.SCORE, step=step, pace=Pace(seconds=60.0, least=BATCH, most=BATCH))


def _receive(catalog: SqlCatalog, count: int) -> None:
    images, policy = FakeImageStore(), receive.ReceivePolicy(minimum_free_bytes=0)
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


def _per_second(act: Callable[[], object], count: int) -> float:
    begun = time.perf_counter()
    act()
    return count / (time.perf_counter() - begun)


def _steps(catalog: SqlCatalog) -> dict[str, float]:
    """Milliseconds of what workers ask all day, each in its transaction; the median of many."""
    taken: dict[str, list[float]] = {"claim_and_finish_ms": [], "quiet_ms": [], "newest_ms": [], "nothing_unscored_ms": []}
    for _ in range(REPEATS):
        begun = time.perf_counter()
        with catalog.begin() as tx:
            jobs = tx.jobs.claim([JobKind.SCORE], worker="bench", lease_seconds=60)
        for job in jobs:
            with catalog.begin() as tx:
                tx.jobs.finish(job)
        taken["claim_and_finish_ms"].append(time.perf_counter() - begun)
        for name, ask in _LOOKS.items():
            begun = time.perf_counter()
            with catalog.read() as tx:
                ask(tx)
            taken[name].append(time.perf_counter() - begun)
    return {name: round(1000 * statistics.median(seconds), 2) for name, seconds in taken.items()}


_LOOKS: Mapping[str, Callable[[Any], object]] = {
    "quiet_ms": lambda tx: tx.studies.quiet(seconds=0, released=True, limit=200),
    "newest_ms": lambda tx: tx.studies.newest(limit=500),
    "nothing_unscored_ms": lambda tx: tx.studies.unscored(
        SERVING, limit=500, numbers=range(max(1, tx.studies.highest() - rescore.SPAN), tx.studies.highest())
    ),
}


class _Predicted:
    """A row of predictions as the ORM sees it."""

    def __init__(self, **values: Any) -> None:
        for name, value in values.items():
            setattr(self, name, value)


registry().map_imperatively(_Predicted, predictions)
COMPARED = 40
"""Studies of each way in each round."""


def _said() -> list[Prediction]:
    return [Prediction(finding, 0.5, Decision.ABSENT) for finding in FINDINGS]


def _by_orm(url: str, archive: LargeArchive) -> None:
    engine = create_engine(database_url(url))
    for study in _some(archive):
        with Session(engine) as session:
            for said in _said():
                row = {"finding": said.finding, "probability": said.probability, "decision": said.decision.value}
                session.merge(_Predicted(study=study, version=SERVING, revision=9, **row))
                session.flush()
            session.commit()
    engine.dispose()


def _by_us(catalog: SqlCatalog, archive: LargeArchive) -> None:
    for study in _some(archive):
        with catalog.begin() as tx:
            tx.scores.put_predictions(SERVING, {archive.study_uid(study): _said()}, {archive.study_uid(study): 9})


def _some(archive: LargeArchive) -> list[int]:
    step = max(1, archive.studies // COMPARED)
    return list(range(1, archive.studies, step))[:COMPARED]


if __name__ == "__main__":
    main()
