"""Throughput of the whole pipeline: `python -m tests.benchmarks.line [--studies 100] [--json]`.

Sends studies of one film each over one association to the real daemon (ViT-B/32, untrained), with a real Orthanc as the
archive, and waits until each study's SR is there. The quiet period is out of it: studies settle when the association is released.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID
from pynetdicom import AE, build_context

from adapters.demo.loopback import free_ports
from adapters.demo.orthanc import OrthancServer
from tests.benchmarks.output import format_result, prints_result_alone
from tests.builders.dicom_files import EXPLICIT, dx
from tests.builders.installation import Installation, wait_for

ROWS, COLUMNS = 1024, 1024


@prints_result_alone
def main() -> str:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=100)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measured = measure(Path(folder), options.studies)
    return format_result(measured, as_json=options.json)


def measure(folder: Path, studies: int) -> dict[str, float]:
    """Run the pipeline once; return seconds and rates."""
    (nobody,) = free_ports(1)
    with OrthancServer(folder / "orthanc", radclipd_port=nobody, forward=False) as orthanc:
        settings: dict[str, dict[str, Any]] = {
            "archive": {"port": orthanc.dicom_port},
            "study": {"stable_age_seconds": 3600, "settle_on_release": True},
            "score": {"threads": 0},
        }
        place = Installation(folder, "", **settings)
        place.run("db", "upgrade")
        place.run("model", "untrained", "--architecture", "ViT-B-32", "--seed", "0")
        with place.running():
            warm = [dx(rows=ROWS, columns=COLUMNS)]
            send(place.port, warm)
            wait_for(lambda: orthanc.count_instances() >= 1, 120, place.read_log)
            one = [dx(rows=ROWS, columns=COLUMNS)]
            send(place.port, one)
            begun = time.monotonic()
            wait_for(lambda: orthanc.count_instances() >= 2, 60, place.read_log)
            single = time.monotonic() - begun
            films = [dx(rows=ROWS, columns=COLUMNS) for _ in range(studies)]
            begun = time.monotonic()
            send(place.port, films)
            sent = time.monotonic()
            wait_for(lambda: orthanc.count_instances() >= 2 + studies, 600, place.read_log)
            done = time.monotonic()
    return {
        "studies": studies,
        "receive_seconds": round(sent - begun, 2),
        "films_received_per_second": round(studies / (sent - begun), 1),
        "last_store_to_last_sr_seconds": round(done - sent, 2),
        "srs_per_second": round(studies / (done - sent), 2),
        "one_study_store_to_sr_seconds": round(single, 2),
    }


def send(port: int, films: list[Dataset]) -> None:
    """C-STORE films over one association and release it."""
    association = AE("ORTHANC").associate(
        "127.0.0.1", port, contexts=[build_context(films[0].SOPClassUID, EXPLICIT)], ae_title="RADCLIPD"
    )
    for film in films:
        film.file_meta = FileMetaDataset()
        film.file_meta.TransferSyntaxUID = UID(EXPLICIT)
        if association.send_c_store(film).Status != 0:
            raise SystemExit("a film was refused")
    association.release()


if __name__ == "__main__":
    main()
