"""Cost of a film, for `deploy/scale.py`: `python -m tests.benchmarks.scale [--films 16] [--rounds 3] [--studies 400] [--json]`.

CPU seconds of one core (the time of this process and thread, so that a busy machine does not change them) of taking a 10-megabyte
film in, of decoding it down to the encoder's square, of an untrained ViT-B/32 as `[score]` runs it, and of scoring it again
from the activation store by a version whose last two blocks moved; operations of that encoder; bytes of the file, also as lossless
JPEG 2000, of what is kept of it, and of its rows: a study of one film, its scores, predictions, report and finished jobs, on
SQLite and, where it is installed, PostgreSQL, indices included.
"""

from __future__ import annotations

import argparse
import itertools
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydicom.uid import JPEG2000Lossless
from torch.utils.flop_counter import FlopCounterMode

from adapters.catalog import query, schema
from adapters.catalog.catalog import SqlCatalog
from adapters.config.sections import ScoreConfig
from adapters.dicom.image import part10
from adapters.ml.activation_cache import ActivationCache, ActivationCacheSettings
from adapters.ml.scorer import load_scorer
from adapters.storage.image_store import FileImageStore
from adapters.storage.model_files import base_folder
from models.encoder.base import Base, read_base
from pipeline.domain import (
    FINDINGS,
    Decision,
    Header,
    JobKind,
    Prediction,
    Report,
    ReportState,
    Scale,
    Sender,
    StoredFile,
    StudyState,
)
from pipeline.ports.backfill import BackfillCounts, BackfillUnit
from pipeline.ports.services import Catalog
from pipeline.receive import ReceivePolicy, receive
from tests.benchmarks.films import Films, untrained
from tests.benchmarks.output import format_result, prints_result_alone
from tests.benchmarks.rescore import Archive
from tests.builders import postgres
from tests.builders.dicom_files import EXPLICIT, dx, encoded
from tests.builders.fakes.versions import a_version

SHIPPED = ScoreConfig()
LIMIT = 1 << 30
"""Bytes of the activation store."""
SENDER = Sender("PACS", "pacs.example.org", "RADCLIPD")
COMMAND = "OMP_NUM_THREADS=1 python -m tests.benchmarks.scale --json"


@prints_result_alone
def main() -> str:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--films", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--studies", type=int, default=400)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        measured = {"command": COMMAND, "torch": str(torch.__version__), **films(place, options.films, options.rounds)}
        measured |= rows(place, options.studies)
    return format_result(measured, as_json=options.json)


def films(folder: Path, count: int, rounds: int) -> dict[str, Any]:
    """Return seconds, bytes and operations a film."""
    store, version = untrained(folder / "models")
    plain, compressed = Films(folder / "plain"), Films(folder / "j2k", transfer_syntax_uid=JPEG2000Lossless)
    kept = ActivationCacheSettings(directory=folder / "activations", max_bytes=LIMIT)
    scorer = load_scorer(
        version,
        store.root,
        device="cpu",
        batch_size=SHIPPED.batch_size,
        threads=1,
        precision=SHIPPED.precision,
        cache_settings=kept,
    )
    base = read_base(base_folder(store.root, version.base), expected=version.card)
    archive = Archive(base, version, [])
    again = archive.scorer(1.0, ActivationCache(replace(base, encoder=archive.classifier(None).encoder), kept))
    instances = [plain.film(number) for number in range(count)]
    squares = list(plain.read_ahead(instances, scorer.input_transform))
    fresh = itertools.count(count)
    ways: dict[str, Callable[[], object]] = {
        "decode": lambda: list(plain.read_ahead(instances, scorer.input_transform)),
        "decode_jpeg2000": lambda: list(compressed.read_ahead(instances, scorer.input_transform)),
        "encode": lambda: scorer.score(squares, [plain.film(next(fresh)) for _ in squares]),  # and keep what enters the last blocks
        "recall": lambda: again.score_cached([plain.film(count + number) for number in range(count)]),
    }
    seconds = {name: [_spent(way) for _ in range(rounds)] for name, way in ways.items()}
    received = [_receive(folder / f"round{n}", sorted((folder / "plain").rglob("*.dcm"))) for n in range(rounds)]
    return {
        "seconds": {"receive": _median(received)} | {name: _median([one / count for one in of]) for name, of in seconds.items()},
        "bytes": {
            "film": _size(folder / "plain"),
            "film_jpeg2000": _size(folder / "j2k"),
            "activations": LIMIT // scorer.cache_capacity,  # whole pages of its file
        },
        "gigaflop": _gigaflop(base),
    }


def _receive(folder: Path, files: list[Path]) -> float:
    """Return the CPU seconds of taking a file in, header, fsync and commit, into a catalog of its own."""
    folder.mkdir(exist_ok=True)
    url = f"sqlite:///{folder / 'receive.db'}"
    schema.upgrade(url)
    catalog, images, contents = SqlCatalog(url), FileImageStore(folder / "received"), [path.read_bytes() for path in files]

    def take() -> None:
        for content in contents:
            header = part10.read_header(*part10.split_file(content))
            receive(header, content, SENDER, catalog=catalog, images=images, policy=ReceivePolicy(min_free_bytes=0))

    spent = _spent(take)
    catalog.dispose()
    return float(spent / len(contents))


def _spent(way: Callable[[], object]) -> float:
    begun = time.process_time()
    way()
    return time.process_time() - begun


def _median(values: list[float]) -> float:
    return round(statistics.median(values), 5)


def _size(folder: Path) -> int:
    sizes = [path.stat().st_size for path in folder.rglob("*.dcm")]
    return sum(sizes) // len(sizes)


def _gigaflop(base: Base) -> float:
    """Return the floating-point operations of encoding one image, in billions.

    Of the plain encoder: products that are handed to oneDNN, or that are fused, are not counted.
    """
    network: Any = base.encoder.network
    size = base.preprocess.size
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with FlopCounterMode(display=False) as counted:
            network.encode_image(torch.zeros(1, 3, size, size))
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    return round(int(counted.get_total_flops()) / 1e9, 2)


def rows(folder: Path, studies: int) -> dict[str, Any]:
    """Return the catalog's bytes a study, by database."""
    url = f"sqlite:///{folder / 'rows.db'}"
    schema.upgrade(url)
    found = {"catalog_sqlite": _grown(url, partial(_pages, folder / "rows.db"), studies)}
    if sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres")):
        with postgres.cluster() as running:
            url = running.upgraded()
            found["catalog_postgresql"] = _grown(url, partial(_database_size, url), studies)
    return {"catalog_bytes": found}


def _grown(url: str, size: Callable[[], int], studies: int) -> int:
    catalog = SqlCatalog(url)
    with catalog.begin() as tx:
        tx.versions.add(a_version())
    _fill(catalog, 0, 50)  # the first rows make pages that later ones fill
    before = size()
    _fill(catalog, 50, 50 + studies)
    grown = size() - before
    catalog.dispose()
    return grown // studies


def _pages(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        (pages,), (size,) = (connection.execute(f"PRAGMA {name}").fetchone() for name in ("page_count", "page_size"))
    return int(pages) * int(size)


def _database_size(url: str) -> int:
    return int(query.run(url, "SELECT pg_database_size(current_database())")[1][0][0])


def _fill(catalog: Catalog, first: int, last: int) -> None:
    """Studies as a backfill leaves them that was reported: film, scores, predictions, report, three finished jobs, a unit."""
    scores = np.linspace(0.1, 0.9, len(FINDINGS), dtype=np.float32)
    predictions = [
        Prediction(finding, float(score), Decision.ABSENT, Scale.BAND, likelihood=float(score), excess=0.0)
        for finding, score in zip(FINDINGS, scores, strict=True)
    ]
    with catalog.begin() as tx:
        for number in range(first, last):
            uid = f"1.2.826.0.1.3680043.8.498.{10**30 + 7919 * number}"
            header = _header(uid, number)
            tx.backfills.mark_backfilled("dicomweb https://pacs.example.org/dicom-web CR,DX", [uid])
            digest = f"{number:064x}"
            tx.studies.add_instance(header, StoredFile(f"aa/bb/{digest}.dcm", digest, 10 << 20), SENDER, opens_study=True)
            tx.scores.add_image_scores(1, {header.sop_instance_uid: scores})
            tx.scores.put_predictions(1, {uid: predictions}, tx.studies.next_revisions([uid]))
            tx.studies.put_state(uid, StudyState.SCORED)
            tx.reports.ensure_pending(_report(uid))
            tx.reports.mark_built(f"{uid}.3", StoredFile(f"cc/dd/{digest}.dcm", digest, 9000))
            tx.reports.mark_sent(f"{uid}.3", "0x0000")
            for kind in (JobKind.SCORE, JobKind.REPORT, JobKind.SEND):
                tx.jobs.put(kind, uid, {"version": 1, "revision": 1})
                (job,) = tx.jobs.claim([kind], worker="host:1:score", lease_seconds=60)
                tx.jobs.finish(job)
            tx.backfills.finish_unit(
                "dicomweb https://pacs.example.org/dicom-web CR,DX", BackfillUnit(key=uid), BackfillCounts(instances=1), [uid]
            )


def _header(uid: str, number: int) -> Header:
    header = part10.read_header(encoded(dx(rows=8, columns=8)), EXPLICIT)
    return replace(
        header,
        patient_id=f"P{number}",
        accession_number=f"A{number}",
        study_instance_uid=uid,
        series_instance_uid=f"{uid}.1",
        sop_instance_uid=f"{uid}.2",
    )


def _report(uid: str) -> Report:
    return Report(
        sop_instance_uid=f"{uid}.3",
        series_instance_uid=f"{uid}.4",
        study_instance_uid=uid,
        version=1,
        revision=1,
        state=ReportState.PENDING,
    )


if __name__ == "__main__":
    main()
