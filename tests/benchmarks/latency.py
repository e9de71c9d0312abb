"""Latency of a study: `python -m tests.benchmarks.latency [--studies 20] [--backlog 0] [--json]`.

One study at a time of one film of 10 megabytes to the real daemon (ViT-B/32, untrained), with Orthanc as the archive: from the
answer to the last C-STORE until Orthanc has answered the C-STORE of the SR. The quiet period is out of it: studies settle when the
association is released.

* `alone`: the daemon is otherwise idle;
* `beside_arrivals`, `beside_rescoring`: other studies wait for their scores, because they were sent before, or because the
  archive is scored again and nothing is kept of its films; each has a film of 10 megabytes of its own. And the daemon's learner is
  at a round of learning. Both must last longer than what is measured. Only with `--backlog`: 2000 studies, for which `make bench`
  asks, need 20 gigabytes of disk and some minutes to come in, twice.

Ratios are of the targets (median 0.5 s, p95 1 s; p95 3 s beside either backlog) to what was measured: above 1 holds.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID
from pynetdicom import AE, build_context

from adapters.demo.loopback import free_ports
from adapters.demo.orthanc import OrthancServer
from tests.benchmarks.backlog import PATIENCE, Backlog, Kind, ask
from tests.benchmarks.films import film, studies_film
from tests.benchmarks.output import format_result, prints_result_alone
from tests.builders.dicom_files import EXPLICIT
from tests.builders.installation import Installation, wait_for

MEDIAN, P95, P95_LOADED = 0.5, 1.0, 3.0
"""Targets, seconds."""
WARM_UP = 3
STEPS = ("created", "built", "sent")


@prints_result_alone
def main() -> str:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=20)
    parser.add_argument("--backlog", type=int, default=0, help="studies; 0: only what is measured alone")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    return format_result(measure(options.studies, options.backlog), as_json=options.json)


def measure(studies: int, backlog: int) -> dict[str, Any]:
    """Return seconds in total and by stage, and the ratios."""
    with tempfile.TemporaryDirectory() as folder:
        template = Installation(Path(folder))
        template.run("db", "upgrade")
        template.run("model", "untrained", "--architecture", "ViT-B-32", "--seed", "0", timeout=PATIENCE)
        return _measured(template, studies, backlog)


def _measured(template: Installation, studies: int, backlog: int) -> dict[str, Any]:
    with _line(template) as line:
        measured = _stage_figures(alone := line.waits(studies), "alone")
    limits = {"target_median": MEDIAN / alone.median, "target_p95": P95 / alone.p95}
    beside = {kind: _beside(kind, template, studies, backlog) for kind in Kind} if backlog else {}
    for kind, (waits, figures) in beside.items():
        measured |= _stage_figures(waits, f"beside_{kind}") | {f"beside_{kind}_{name}": figure for name, figure in figures.items()}
    if beside:
        limits["target_p95_loaded"] = P95_LOADED / max(waits.p95 for waits, _ in beside.values())
    ratios = {name: dict.fromkeys(("min", "median", "max"), round(ratio, 2)) for name, ratio in limits.items()}
    return {"studies": studies, "backlog": backlog, **measured, "ratios": ratios}


@dataclass(frozen=True)
class Waits:
    """Seconds from the last C-STORE until the report was created, built and sent, of each study."""

    seconds: Mapping[str, list[float]]

    @property
    def median(self) -> float:
        """Until it was sent."""
        return statistics.median(self.seconds["sent"])

    @property
    def p95(self) -> float:
        """Until it was sent."""
        return sorted(self.seconds["sent"])[math.ceil(0.95 * len(self.seconds["sent"])) - 1]


def _stage_figures(waits: Waits, how: str) -> dict[str, float]:
    medians = {f"{how}_median_seconds_to_report_{step}": statistics.median(of) for step, of in waits.seconds.items()}
    worst = {f"{how}_p95_seconds": waits.p95, f"{how}_worst_seconds": max(waits.seconds["sent"])}
    return {name: round(seconds, 3) for name, seconds in (medians | worst).items()}


@contextmanager
def _line(template: Installation) -> Iterator[Line]:
    """Yield a warm daemon and its archive."""
    (nobody,) = free_ports(1)
    with (
        tempfile.TemporaryDirectory() as temporary,
        OrthancServer(Path(temporary) / "orthanc", radclipd_port=nobody, forward=False) as orthanc,
    ):
        place = Installation(
            Path(temporary),
            archive={"port": orthanc.dicom_port, "timeout_seconds": 30},
            study={"stable_age_seconds": 3600, "settle_on_release": True},
            score={"threads": 0},
            work={"poll_seconds": 0.5, "lease_seconds": 120},
            activation_cache={"max_size": "1GiB", "warm": False},
        )
        place.copy_of(template)
        with place.running():
            line = Line(place)
            line.waits(WARM_UP)
            yield line


class Line:
    """From a sender to the archive."""

    def __init__(self, place: Installation) -> None:
        self.place = place

    def waits(self, studies: int) -> Waits:
        """Send `studies` one by one, each after the report of the previous one is in the archive."""
        pixels = film(1)
        films = [studies_film(pixels, WindowCenter=1900, WindowWidth=3600) for _ in range(studies)]
        accepted = {str(film.StudyInstanceUID): self._one(film) for film in films}
        moments = {uid: self._moments(uid) for uid in accepted}
        return Waits({step: [moments[uid][n] - at for uid, at in accepted.items()] for n, step in enumerate(STEPS)})

    def _one(self, film: Dataset) -> float:
        """Send a study and wait for its SR; return when its film was accepted, seconds since 1970."""
        film.file_meta = FileMetaDataset()
        film.file_meta.TransferSyntaxUID = UID(EXPLICIT)
        context = build_context(film.SOPClassUID, EXPLICIT)
        association = AE("ORTHANC").associate("127.0.0.1", self.place.port, contexts=[context], ae_title="RADCLIPD")
        if not association.is_established or association.send_c_store(film).Status != 0:
            raise SystemExit("a film was refused")
        accepted = time.time()
        association.release()
        wait_for(lambda: self._moments(str(film.StudyInstanceUID)), 300, self.place.read_log)
        return accepted

    def _moments(self, uid: str) -> list[float]:
        """Return when its report was created, built and sent; nothing before."""
        asked = "SELECT created_at, built_at, sent_at FROM v_reports WHERE study_instance_uid = ? AND sent_at IS NOT NULL"
        return [datetime.fromisoformat(moment).timestamp() for row in ask(self.place, asked, uid) for moment in row]


def _beside(kind: Kind, template: Installation, studies: int, backlog: int) -> tuple[Waits, dict[str, float]]:
    """Measure while a backlog is scored and a round of learning runs. SystemExit where either ended before."""
    with _line(template) as line, closing(Backlog(line.place, backlog)) as others:
        others.learn()
        others.line_up(kind)
        left, learnt = others.left(), others.learner_seconds()
        waits = line.waits(studies)
        if not others.left() or not others.learning():
            ended = "learning" if others.left() else "the backlog"
            raise SystemExit(f"{kind}: {ended} ended before the last study was reported, so nothing was measured")
        learnt = others.learner_seconds() - learnt
        return waits, {"left_at_first": left, "left_at_last": others.left(), "learner_cpu_seconds": round(learnt, 1)}


if __name__ == "__main__":
    main()
