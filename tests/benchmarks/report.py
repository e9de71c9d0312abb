"""Reports from the version's template against reports built by highdicom: the same bytes, timed side by side.

    python -m tests.benchmarks.report --json

Each report is of another study, with scores and patient of its own; one film each. The header is read in both ways, and the first
report of the version, which makes the form, is counted: `ms_first`.
"""

from __future__ import annotations

import argparse
import random
import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from adapters.dicom.sr.document import ReportSettings
from adapters.dicom.sr.writer import SrWriter
from pipeline import decisions
from pipeline.ports.services import ReportContent
from tests.benchmarks.films import CLOCKS, ratio, side_by_side
from tests.benchmarks.output import format_result, prints_result_alone
from tests.builders.dicom_files import dx, file_of
from tests.builders.fakes.images import FakeImageStore
from tests.builders.reference_report import build_reference_report
from tests.builders.report_of import a_card_version, a_reference, content_of, told_of


@prints_result_alone
def main() -> str:
    parser = argparse.ArgumentParser()
    parser.add_argument("--reports", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    return format_result(measure(asked.reports, asked.rounds, clock=asked.clock), as_json=asked.json)


def measure(reports: int, rounds: int, *, clock: str = "wall") -> dict[str, Any]:
    """Return the ratio and the milliseconds a report of each way."""
    store, settings = FakeImageStore(), ReportSettings()
    writer = SrWriter(settings, store)
    contents = [content(number, store, writer) for number in range(reports)]
    nothing = partial(build_reference_report, store=store, settings=settings)
    nothing(contents[0])  # loads highdicom's tables
    first = side_by_side({"first": lambda: writer.write(contents[0])}, rounds=1, clock=CLOCKS[clock])["first"][0]
    ways: dict[str, Callable[[], object]] = {
        "highdicom": lambda: [nothing(one) for one in contents],
        "radclipd": lambda: [writer.write(one) for one in contents],
    }
    seconds = side_by_side(ways, rounds=rounds, clock=CLOCKS[clock])
    each = {f"ms_{way}": round(1000 * statistics.median(of) / reports, 2) for way, of in seconds.items()}
    ratios = {"vs_highdicom_from_nothing": ratio(seconds["highdicom"], seconds["radclipd"])}
    return {"reports": reports, "rounds": rounds, "clock": clock, "ms_first": round(1000 * first, 1), **each, "ratios": ratios}


def content(number: int, store: FakeImageStore, writer: SrWriter) -> ReportContent:
    """Return the content of one report."""
    chance = random.Random(number)
    film = dx(PatientID=f"P-{number}", AccessionNumber=f"A-{number}", rows=64 + number)
    made = content_of([file_of(film)], store, writer, a_card_version())
    scores = np.array([chance.random() for _ in made.predictions], dtype=np.float32)
    version = made.version
    return told_of(made, decisions.predict_study(scores, version, a_reference(version)))


if __name__ == "__main__":
    main()
