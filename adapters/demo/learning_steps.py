"""Learning steps of the demonstration: a radiologist reads some studies, radclipd learns from them, the archive is re-scored."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

from pydicom import dcmread

from adapters.demo.dictated_sr import build_dictated_sr
from adapters.demo.simulated_reader import FALSE_POSITIVE_RATE, MISS_RATE, SimulatedReader, count_wrong_statements
from adapters.demo.state import DemoFailed, DemoState
from adapters.demo.steps import POLL_SECONDS, STALL_TIMEOUT_SECONDS, raise_if_quarantined, record_scores, show_statement
from adapters.label_csv.columns import SELECTION_REASON, STUDY
from pipeline.domain import FINDINGS, VersionState
from pipeline.header_words import View, view_of_words
from pipeline.rules import MONITORING

READ_SHARE, READING_SESSIONS = 1 / 3, 3
"""Share of the archive that the radiologist reads, and number of sessions: labels tell the worklist which findings are rare."""
AFTER_LEARNING = "after learning"

PolledValue = TypeVar("PolledValue")


def read_studies(demo: DemoState) -> None:
    """Let a simulated radiologist label the studies of the worklist: by a table, and one study by an SR sent to the archive."""
    if not demo.truths:
        demo.print_line("Nobody can play the radiologist: nothing says what these films really show.")
        return
    reader = SimulatedReader(seed=demo.options.seed)
    demo.print_line("The radiologist is simulated, and looks at the hidden truth; but misses")
    demo.print_line(f"{MISS_RATE:.0%} of the findings that are there and sees {FALSE_POSITIVE_RATE:.0%} of those that are not.")
    demo.print_line("The reader's table is filled in where no report of radclipd is shown, which --blind states: versions are")
    demo.print_line("measured on such labels alone. A label that comes after a report, by another way, counts as possibly exposed.")
    for number, count in enumerate(studies_per_session(len(demo.reports)), 1):
        _hold_reading_session(demo, reader, number, count)
    statements, wrong = len(demo.reader_findings) * len(FINDINGS), count_wrong_statements(demo.reader_findings, demo.truths)
    share = f" ({wrong / statements:.1%})" if statements else ""
    demo.print_line(
        f"{len(demo.reader_findings)} of {len(demo.reports)} studies were read: "
        f"{statements} statements, of which {wrong}{share} are wrong"
    )


def studies_per_session(studies: int) -> list[int]:
    """Return the number of studies of each reading session."""
    total = round(READ_SHARE * studies)
    sessions = max(1, min(READING_SESSIONS, total // len(FINDINGS)))
    return [total // sessions + (number < total % sessions) for number in range(sessions)] if total else []


def _hold_reading_session(demo: DemoState, reader: SimulatedReader, number: int, count: int) -> None:
    asked, answered = (demo.folder / f"{name}-{number}.csv" for name in ("worklist", "labels"))
    rows = _request_worklist(demo, count, asked)
    truths = demo.truths
    findings = {row[STUDY]: reader.read_study(row[STUDY], truths[row[STUDY]]) for row in rows}
    by_table = dict(findings)
    learnable = [row[STUDY] for row in rows if row[SELECTION_REASON] != MONITORING]
    if number == 1 and learnable:
        _send_dictated_sr(demo, reader, learnable[0], by_table.pop(learnable[0]))
    if by_table:
        reader.fill_in_table(asked, answered, by_table)
        imported = demo.installation.run_verb("labels", "import", "--blind", str(answered))
        demo.print_line(f"radclipd labels import --blind {answered.name}: {imported}")
    demo.reader_findings |= findings


def _request_worklist(demo: DemoState, count: int, path: Path) -> list[dict[str, Any]]:
    """Have radclipd write a table to fill in; return its rows with the selection reasons."""
    asked: list[dict[str, Any]] = json.loads(
        demo.installation.run_verb("worklist", "--n", str(count), "--csv", str(path), "--json")
    )
    reasons = Counter(one[SELECTION_REASON] for one in asked)
    demo.print_line(
        f"radclipd worklist --n {count}: " + ", ".join(f"{times} for {reason}" for reason, times in reasons.most_common())
    )
    numbers = {sent.study_instance_uid: sent.number for sent in demo.sent_studies}
    of_each = {one[SELECTION_REASON]: one for one in asked}
    for reason, one in of_each.items() if not demo.reader_findings else ():
        demo.print_line(f"  study {numbers[one[STUDY]]}, {reason}: {one['reason']}")
    truths = demo.truths
    return [one for one in asked if one[STUDY] in truths]


def _send_dictated_sr(demo: DemoState, reader: SimulatedReader, study: str, present: frozenset[str]) -> None:
    """Send one report as a structured report to the archive, which forwards it."""
    films = demo.hospital_archive.fetch_radiographs(study)
    film = next((film for film in films if view_of_words(_read_view_position(film)) is View.FRONTAL), films[0])
    demo.hospital_archive.store_document(study, build_dictated_sr(film, present, reader=reader.name))

    def labelled() -> list[Any]:
        return [
            row
            for row in demo.query_rows("SELECT study_instance_uid, finding FROM v_labels WHERE source = 'sr'")
            if row[0] == study
        ]

    found = _poll_until(demo, f"the labels of study {study} did not come back from the archive", labelled, bool)
    demo.print_line(f"one report goes to the archive as a structured report; it was forwarded, and read: {len(found)} labels")


def _read_view_position(film: bytes) -> str:
    return str(dcmread(BytesIO(film), stop_before_pixels=True, specific_tags=["ViewPosition"]).get("ViewPosition"))


def run_learning(demo: DemoState) -> None:
    """Learn now, in place of a hospital's nightly schedule; print the decision of the gate."""
    if not demo.reader_findings:
        demo.print_line("Nothing is labelled, so there is nothing to learn.")
        return
    demo.print_line("The scheduler would call for this at night, as soon as enough labels are new; here a person does.")
    with demo.console.status("learning: the head on the frozen encoder, and the last blocks unfrozen"):
        _, stderr = demo.installation.run_verb_with_stderr("learn")
    demo.print_line(f"radclipd learn: {stderr.splitlines()[-1]}")
    made = demo.query_rows(
        "SELECT number, state, card FROM v_model_versions WHERE label_fingerprint <> '' ORDER BY number DESC LIMIT 1"
    )
    for number, state, card in made:
        for line in _describe_learning(json.loads(card)["learning"]):
            demo.print_line(line)
        demo.promoted_version = number if state == VersionState.SERVING.value else None
    if demo.promoted_version is None:
        demo.print_line("The version that served goes on serving.")


def _describe_learning(learning: dict[str, Any]) -> Iterator[str]:
    """Yield a description of a version's training, from its card."""
    yield f"learnt from {learning['films']} films of {learning['patients']} patients: {', '.join(learning['findings'])}"
    if learning["kept"]:
        yield f"too few films show {', '.join(learning['kept'])}: there the head that served stays"
    losses = ", ".join(f"{name} {loss:.3f}" for name, loss in learning["log_loss"].items())
    yield f"log-loss on patients that were held out: {losses}; the lower is taken"


def wait_for_rescoring(demo: DemoState) -> None:
    """Wait until the serving version has scored the archive and all its reports are sent."""
    if demo.promoted_version is None:
        demo.print_line("No other version serves: the scores stand as they are.")
        return
    [(studies,)] = demo.query_rows("SELECT studies FROM v_rescoring")
    with demo.progress_bar(studies) as show:

        def poll() -> tuple[int, int]:
            [(scored,)] = demo.query_rows("SELECT scored FROM v_rescoring")
            [(waiting,)] = demo.query_rows(
                "SELECT COUNT(*) FROM v_jobs WHERE state IN ('waiting', 'running') AND kind IN ('report', 'send')"
            )
            show(scored - waiting, f"{scored} scored, {waiting} reports to be sent")
            return scored, waiting

        _poll_until(demo, "the archive was not scored again", poll, lambda seen: seen == (studies, 0))
    demo.print_line(f"version {demo.promoted_version} has scored {studies} studies")
    record_scores(demo, AFTER_LEARNING)


def fetch_successors(demo: DemoState) -> None:
    """Fetch the SRs of the promoted version from the archive: each must name its predecessor."""
    if demo.promoted_version is None:
        demo.print_line("There are none.")
        return
    expected = demo.query_rows(
        f"SELECT study_instance_uid, sop_instance_uid FROM v_reports WHERE version = {demo.promoted_version}"
    )
    with demo.progress_bar(len(expected)) as show:
        for number, (study, uid) in enumerate(expected, 1):
            _require_successor(demo, study, uid)
            show(number, "asked for")
    demo.print_line(f"the archive holds {len(expected)} SRs of version {demo.promoted_version}; each names the one that it follows")
    if same := len(demo.reports) - len(expected):
        demo.print_line(f"decided as before, and so without another SR: {same} of {len(demo.reports)}")
    first = next((sent for sent in demo.sent_studies if sent.study_instance_uid in dict(expected)), None)
    if first:
        uid = dict(expected)[first.study_instance_uid]
        demo.print_line(f"study {first.number}: {uid}")
        demo.print_line(f"follows  {_read_sop_instance_uid(demo.reports[first.study_instance_uid])}")
    show_statement(demo)


def _require_successor(demo: DemoState, study: str, uid: str) -> None:
    held = [dcmread(BytesIO(content)) for content in demo.hospital_archive.fetch_reports(study)]
    successor = next((report for report in held if report.SOPInstanceUID == uid), None)
    if successor is None:
        raise DemoFailed(f"the archive has no SR {uid} of study {study}")
    followed = [
        reference.ReferencedSOPInstanceUID
        for of_study in successor.get("PredecessorDocumentsSequence", [])
        for series in of_study.ReferencedSeriesSequence
        for reference in series.ReferencedSOPSequence
    ]
    if followed != [_read_sop_instance_uid(demo.reports[study])]:
        raise DemoFailed(f"SR {uid} does not name the one before it")


def _read_sop_instance_uid(report: bytes) -> str:
    return str(dcmread(BytesIO(report), specific_tags=["SOPInstanceUID"]).SOPInstanceUID)


def _poll_until(
    demo: DemoState, failure: str, poll: Callable[[], PolledValue], is_done: Callable[[PolledValue], object]
) -> PolledValue:
    """Poll until `is_done`; return the last value. DemoFailed where the value does not change for STALL_TIMEOUT_SECONDS."""
    last_change, previous = time.monotonic(), None
    while not is_done(seen := poll()):
        demo.installation.require_alive()
        raise_if_quarantined(demo)
        if seen != previous:
            last_change, previous = time.monotonic(), seen
        elif time.monotonic() > last_change + STALL_TIMEOUT_SECONDS:
            raise DemoFailed(failure)
        time.sleep(POLL_SECONDS)
    return seen
