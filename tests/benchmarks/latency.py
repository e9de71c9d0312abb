"""How long a study waits: `python -m tests.benchmarks.latency [--studies 20] [--backlog 0] [--json]`.

One study at a time of one film of 10 megabytes to the real daemon (ViT-B/32, untrained), with Orthanc as the archive: from the
answer to the last C-STORE until Orthanc has answered the C-STORE of the SR. The quiet period is out of it: studies settle when the
association is released. With `--backlog` so many studies of the archive wait to be scored again meanwhile, and one process learns
without a pause; a figure is then of what arrives beside them.

Ratios are of the targets (median 0.5 s, p95 1 s; 3 s beside a backlog) to what was measured: above 1 holds.
"""

from __future__ import annotations

import argparse
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset
from pynetdicom import AE, build_context

from adapters.catalog.catalog import SqlCatalog
from adapters.hospital.loopback import free_ports
from adapters.hospital.orthanc import OrthancServer
from adapters.host.image_store import FileImageStore
from pipeline import rescore
from pipeline.domain import Header, JobKind, Sender, StudyState
from tests.acceptance.installation import Installation, wait_for
from tests.benchmarks.films import file_bytes, tell
from tests.builders import EXPLICIT

MEDIAN, P95, P95_LOADED = 0.5, 1.0, 3.0
"""Targets, seconds."""
LEARNER = """
import os
os.nice(10)
import models.torchvision_ops, torch
from models.architecture import Architecture
from models.encoder import Encoder
network = Encoder.untrained(Architecture.named("ViT-B-32"), seed=0).network.visual.requires_grad_(True)
print("learning", flush=True)
while True:
    network(torch.randn(8, 3, 224, 224)).square().sum().backward()
"""
"""What the learner's processors do between two looks at the queue, at its niceness, and without ever giving way."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=20)
    parser.add_argument("--backlog", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tell(measure(Path(folder), options.studies, options.backlog), as_json=options.json)


def measure(folder: Path, studies: int, backlog: int) -> dict[str, Any]:
    """Run the line for each study; return seconds, where they went, and the ratios."""
    (nobody,) = free_ports(1)
    with OrthancServer(folder / "orthanc", radclipd_port=nobody, forward=False) as orthanc:
        place = Installation(
            folder,
            "",
            archive={"port": orthanc.dicom_port, "timeout_seconds": 30},
            study={"quiet_seconds": 3600, "settle_on_release": True},
            score={"threads": 0},
            work={"poll_seconds": 0.5},
            prefix={"limit": "1GiB", "fill": False},
        )
        place.run("db", "upgrade")
        place.run("model", "untrained", "--architecture", "ViT-B-32", "--seed", "0")
        with place.running():
            for number in range(3):
                _one(place, orthanc, number)  # warms up
            with _busy(place, backlog) if backlog else nullcontext():
                sent = dict(_one(place, orthanc, 3 + number) for number in range(studies))
                left = _left(place)
        return _told(place, sent, backlog, left)


def _one(place: Installation, orthanc: OrthancServer, number: int) -> tuple[str, float]:
    """Send a study and wait for its SR; return its UID and when its film was accepted, seconds since 1970."""
    film, before = _film(number), orthanc.count()
    association = AE("ORTHANC").associate(
        "127.0.0.1", place.port, contexts=[build_context(film.SOPClassUID, EXPLICIT)], ae_title="RADCLIPD"
    )
    if not association.is_established or association.send_c_store(film).Status != 0:
        raise SystemExit("a film was refused")
    accepted = time.time()
    association.release()
    wait_for(lambda: orthanc.count() > before, 120, place.told)
    return str(film.StudyInstanceUID), accepted


def _film(number: int) -> Dataset:
    return dcmread(BytesIO(file_bytes(number, WindowCenter=1900, WindowWidth=3600)))


@contextmanager
def _busy(place: Installation, backlog: int) -> Iterator[None]:
    """Let the archive wait to be scored again, and a learner learn, while the block lasts."""
    catalog = SqlCatalog(place.url)
    file = FileImageStore(place.folder / "images").write(file_bytes(0, WindowCenter=1900, WindowWidth=3600))
    with catalog.begin() as tx:
        for number in range(backlog):
            header = Header(
                sop_instance_uid=f"1.2.{number}.1",
                sop_class_uid="1.2.840.10008.5.1.4.1.1.1.1",
                series_instance_uid=f"1.2.{number}.9",
                study_instance_uid=f"1.2.{number}",
                transfer_syntax_uid=EXPLICIT,
                patient_id=f"P{number}",
                view_position="PA",
                body_part_examined="CHEST",
                has_pixels=True,
            )
            tx.studies.add_instance(header, file, Sender("PACS", "127.0.0.1", "RADCLIPD"), opens_study=True)
            tx.studies.put_state(header.study_instance_uid, StudyState.REPORTED)
            tx.jobs.put(JobKind.SCORE, header.study_instance_uid, {rescore.RESCORED: True}, priority=rescore.PRIORITY)
    catalog.dispose()
    with subprocess.Popen([sys.executable, "-c", LEARNER], stdout=subprocess.PIPE, text=True) as learner:
        assert learner.stdout is not None
        learner.stdout.readline()
        try:
            yield
        finally:
            learner.kill()


def _left(place: Installation) -> int:
    (row,) = place.rows("SELECT count(*) AS waiting FROM v_jobs WHERE kind = 'score' AND state <> 'done'")
    return int(row["waiting"])


def _told(place: Installation, sent: Mapping[str, float], backlog: int, left: int) -> dict[str, Any]:
    rows = {row["study_instance_uid"]: row for row in place.rows("SELECT * FROM v_reports") if row["study_instance_uid"] in sent}
    steps = {
        step: [_seconds(rows[uid][f"{step}_at"]) - accepted for uid, accepted in sent.items()]
        for step in ("created", "built", "sent")
    }
    waits = sorted(steps["sent"])
    median, p95 = statistics.median(waits), waits[math.ceil(0.95 * len(waits)) - 1]
    limits = {"p95_loaded": (P95_LOADED, p95)} if backlog else {"median": (MEDIAN, median), "p95": (P95, p95)}
    return {
        "studies": len(waits),
        "backlog": backlog,
        "backlog_left": left,
        **{f"median_seconds_to_report_{step}": round(statistics.median(of), 3) for step, of in steps.items()},
        "p95_seconds": round(p95, 3),
        "worst_seconds": round(waits[-1], 3),
        "ratios": {f"target_{name}": dict.fromkeys(("min", "median", "max"), round(a / b, 2)) for name, (a, b) in limits.items()},
    }


def _seconds(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()


if __name__ == "__main__":
    main()
