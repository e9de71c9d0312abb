"""The chapters about learning: a radiologist reads a few studies, radclipd learns from them, and the archive is scored again."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

from pydicom import dcmread

from adapters.demo.dictated_sr import dictated
from adapters.demo.simulated_reader import INVENTED, MISSED, Reader, mistakes
from adapters.demo.state import Demo, Failed
from adapters.demo.steps import LOOK_SECONDS, PATIENCE_SECONDS, keep_scores, require_no_quarantine
from adapters.label_csv.columns import ASKED_BECAUSE, STUDY
from pipeline.domain import FINDINGS, VersionState
from pipeline.rules import FRONTAL_VIEWS, MONITORING

READ_SHARE, ROUNDS = 1 / 3, 3
"""How much of the archive the radiologist reads, in how many sittings: what was read tells the worklist what is still rare."""
AFTER = "after learning"

Seen = TypeVar("Seen")


def read_studies(demo: Demo) -> None:
    """Let a simulated radiologist label what the worklist asks for: by a table, and one study by an SR to the archive."""
    if not demo.truths:
        demo.say("Nobody can play the radiologist: nothing says what these films really show.")
        return
    reader = Reader(seed=demo.options.seed)
    demo.say("The radiologist is simulated, and looks at the hidden truth; but misses")
    demo.say(f"{MISSED:.0%} of the findings that are there and sees {INVENTED:.0%} of those that are not.")
    for number, count in enumerate(sittings(len(demo.reports)), 1):
        _sit(demo, reader, number, count)
    statements, wrong = len(demo.said) * len(FINDINGS), mistakes(demo.said, demo.truths)
    share = f" ({wrong / statements:.1%})" if statements else ""
    demo.say(
        f"{len(demo.said)} of {len(demo.reports)} studies were read: {statements} statements, of which {wrong}{share} are wrong"
    )


def sittings(studies: int) -> list[int]:
    """How many studies are read at each sitting."""
    wanted = round(READ_SHARE * studies)
    sittings = max(1, min(ROUNDS, wanted // len(FINDINGS)))
    return [wanted // sittings + (number < wanted % sittings) for number in range(sittings)] if wanted else []


def _sit(demo: Demo, reader: Reader, number: int, count: int) -> None:
    asked, answered = (demo.folder / f"{name}-{number}.csv" for name in ("worklist", "labels"))
    wanted = _worklist(demo, count, asked)
    truths = demo.truths
    said = {one[STUDY]: reader.read(one[STUDY], truths[one[STUDY]]) for one in wanted}
    by_table = dict(said)
    learnt = [one[STUDY] for one in wanted if one[ASKED_BECAUSE] != MONITORING]
    if number == 1 and learnt:
        _dictate(demo, reader, learnt[0], by_table.pop(learnt[0]))
    if by_table:
        reader.fill_in(asked, answered, by_table)
        demo.say(f"radclipd labels import {answered.name}: {demo.installed.verb('labels', 'import', str(answered))}")
    demo.said |= said


def _worklist(demo: Demo, count: int, path: Path) -> list[dict[str, Any]]:
    """Have radclipd write a table to fill in; return what it asks for, and why."""
    asked: list[dict[str, Any]] = json.loads(demo.installed.verb("worklist", "--n", str(count), "--csv", str(path), "--json"))
    reasons = Counter(one[ASKED_BECAUSE] for one in asked)
    demo.say(f"radclipd worklist --n {count}: " + ", ".join(f"{times} for {reason}" for reason, times in reasons.most_common()))
    numbers = {sent.study_instance_uid: sent.number for sent in demo.sent}
    of_each = {one[ASKED_BECAUSE]: one for one in asked}
    for reason, one in of_each.items() if not demo.said else ():
        demo.say(f"  study {numbers[one[STUDY]]}, {reason}: {one['detail']}")
    truths = demo.truths
    return [one for one in asked if one[STUDY] in truths]


def _dictate(demo: Demo, reader: Reader, study: str, present: frozenset[str]) -> None:
    """Send one report the other way: as a structured report to the archive, which forwards it."""
    films = demo.hospital.films(study)
    film = next((film for film in films if _view(film) in FRONTAL_VIEWS), films[0])
    demo.hospital.file(study, dictated(film, present, reader=reader.name))

    def labelled() -> list[Any]:
        return [row for row in demo.rows("SELECT study_instance_uid, finding FROM v_labels WHERE source = 'sr'") if row[0] == study]

    found = _until(demo, f"the labels of study {study} did not come back from the archive", labelled, bool)
    demo.say(f"one report goes to the archive as a structured report; it was forwarded, and read: {len(found)} labels")


def _view(film: bytes) -> str:
    return str(dcmread(BytesIO(film), stop_before_pixels=True, specific_tags=["ViewPosition"]).get("ViewPosition"))


def learn(demo: Demo) -> None:
    """Learn now what a hospital's scheduler would have learnt at night; tell what the gate says of it."""
    if not demo.said:
        demo.say("Nothing is labelled, so there is nothing to learn.")
        return
    demo.say("The scheduler would call for this at night, as soon as enough labels are new; here a person does.")
    with demo.console.status("learning: the head on the frozen encoder, and the last blocks unfrozen"):
        _, beside = demo.installed.said_by("learn")
    demo.say(f"radclipd learn: {beside.splitlines()[-1]}")
    made = demo.rows("SELECT number, state, card FROM v_model_versions WHERE label_fingerprint <> '' ORDER BY number DESC LIMIT 1")
    for number, state, card in made:
        for line in _in_words(json.loads(card)["learning"]):
            demo.say(line)
        demo.promoted = number if state == VersionState.SERVING.value else None
    if demo.promoted is None:
        demo.say("The version that served goes on serving.")


def _in_words(learning: dict[str, Any]) -> Iterator[str]:
    """Yield how a version came to be, by its card."""
    yield f"learnt from {learning['films']} films of {learning['patients']} patients: {', '.join(learning['findings'])}"
    if learning["kept"]:
        yield f"too few films show {', '.join(learning['kept'])}: there the head that served stays"
    ways = ", ".join(f"{name} {loss:.3f}" for name, loss in learning["log_loss"].items())
    yield f"log-loss on patients that were held out: {ways}; the lower is taken"


def follow_rescoring(demo: Demo) -> None:
    """Wait until the serving version has scored the archive and what is to be reported is in the archive."""
    if demo.promoted is None:
        demo.say("No other version serves: the scores stand as they are.")
        return
    [(studies,)] = demo.rows("SELECT studies FROM v_rescoring")
    with demo.bar(studies) as show:

        def look() -> tuple[int, int]:
            [(scored,)] = demo.rows("SELECT scored FROM v_rescoring")
            [(waiting,)] = demo.rows(
                "SELECT COUNT(*) FROM v_jobs WHERE state IN ('waiting', 'running') AND kind IN ('report', 'send')"
            )
            show(scored - waiting, f"{scored} scored, {waiting} reports to be sent")
            return scored, waiting

        _until(demo, "the archive was not scored again", look, lambda seen: seen == (studies, 0))
    demo.say(f"version {demo.promoted} has scored {studies} studies")
    keep_scores(demo, AFTER)


def ask_successors(demo: Demo) -> None:
    """Fetch the SRs of the version that was promoted from the archive: each must name the one before it."""
    if demo.promoted is None:
        demo.say("There are none.")
        return
    expected = demo.rows(f"SELECT study_instance_uid, sop_instance_uid FROM v_reports WHERE version = {demo.promoted}")
    with demo.bar(len(expected)) as show:
        for number, (study, uid) in enumerate(expected, 1):
            _require_successor(demo, study, uid)
            show(number, "asked for")
    demo.say(f"the archive holds {len(expected)} SRs of version {demo.promoted}; each names the one that it follows")
    if same := len(demo.reports) - len(expected):
        demo.say(f"decided as before, and so without another SR: {same} of {len(demo.reports)}")
    first = next((sent for sent in demo.sent if sent.study_instance_uid in dict(expected)), None)
    if first:
        uid = dict(expected)[first.study_instance_uid]
        demo.say(f"study {first.number}: {uid}")
        demo.say(f"follows  {_uid(demo.reports[first.study_instance_uid])}")


def _require_successor(demo: Demo, study: str, uid: str) -> None:
    held = [dcmread(BytesIO(content)) for content in demo.hospital.reports(study)]
    successor = next((report for report in held if report.SOPInstanceUID == uid), None)
    if successor is None:
        raise Failed(f"the archive has no SR {uid} of study {study}")
    followed = [
        reference.ReferencedSOPInstanceUID
        for of_study in successor.get("PredecessorDocumentsSequence", [])
        for series in of_study.ReferencedSeriesSequence
        for reference in series.ReferencedSOPSequence
    ]
    if followed != [_uid(demo.reports[study])]:
        raise Failed(f"SR {uid} does not name the one before it")


def _uid(report: bytes) -> str:
    return str(dcmread(BytesIO(report), specific_tags=["SOPInstanceUID"]).SOPInstanceUID)


def _until(demo: Demo, failure: str, look: Callable[[], Seen], ended: Callable[[Seen], object]) -> Seen:
    """Look until it has ended; return what was seen last. Failed where nothing changes for too long."""
    moved, before = time.monotonic(), None
    while not ended(seen := look()):
        demo.installed.require_alive()
        require_no_quarantine(demo)
        if seen != before:
            moved, before = time.monotonic(), seen
        elif time.monotonic() > moved + PATIENCE_SECONDS:
            raise Failed(failure)
        time.sleep(LOOK_SECONDS)
    return seen
