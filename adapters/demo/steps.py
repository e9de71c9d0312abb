"""The chapters of the demonstration, in the order in which they are told: from an empty archive to what the scores were worth."""

from __future__ import annotations

import contextlib
import socket
import time
from collections import Counter
from collections.abc import Generator

from rich import box
from rich.table import Table

from adapters.catalog.views import column_of
from adapters.datasets import film_folder
from adapters.demo import outcome
from adapters.demo.archives import open_archive
from adapters.demo.installation import Installation
from adapters.demo.loopback import LOOPBACK, free_ports
from adapters.demo.state import FIRST, Demo, Failed, Sent
from adapters.dicom.sr import text
from adapters.simulator import scanner
from adapters.simulator.sites import UNSEEN_SITE
from adapters.simulator.truth import TRUTH, write_truth
from pipeline.domain import FINDINGS, StudyState

LAST_STATES = {StudyState.REPORTED.value, StudyState.IGNORED.value}
PORT_SECONDS = 120.0
"""How long the daemon may take until its port is open."""
PATIENCE_SECONDS = 240.0
"""How long nothing may happen to any study. A slow machine is slow, and yet something happens."""
LOOK_SECONDS = 0.5
EDGE = 512
"""Pixels of a phantom film."""
WORKERS = 2
"""Processes that take films."""
SHOWN_STUDIES = 7
"""Columns of the table of findings that fit on a terminal."""
ZERO_SHOT = "zero-shot"
PLOT = "outcome.png"

Examinations = Generator[scanner.Examination, None, None]


def start_archive(demo: Demo) -> None:
    """Start the hospital's archive, which forwards radiographs to radclipd."""
    [demo.radclipd_port] = free_ports(1)
    demo.archive, what = open_archive(demo.folder / "archive", radclipd_port=demo.radclipd_port, embedded=demo.options.embedded)
    demo.say(f"{what}, AE title {demo.archive.ae_title}, DICOM port {demo.archive.port}: {demo.archive.place}")


def install_radclipd(demo: Demo) -> None:
    """Write a configuration and make the database."""
    demo.radclipd = Installation(
        demo.folder / "radclipd",
        port=demo.radclipd_port,
        archive_ae_title=demo.hospital.ae_title,
        archive_port=demo.hospital.port,
    )
    demo.say(f"configuration: {demo.radclipd.configuration}")
    demo.say(f"radclipd db upgrade: {demo.radclipd.verb('db', 'upgrade') or 'done'}")


def import_model(demo: Demo) -> None:
    """Import the encoder that is shipped; or, where an architecture is asked for, random numbers in its shape."""
    if demo.options.architecture:
        _import_random_numbers(demo)
        return
    with demo.console.status("importing the encoder that is shipped"):
        imported = demo.installed.verb("model", "demo")
    demo.say(f"radclipd model demo: {imported}")
    demo.say("A small CLIP, trained on phantom films of other hospitals. It has never seen a patient, nor a film of this hospital.")


def _import_random_numbers(demo: Demo) -> None:
    with demo.console.status(f"drawing the random numbers of {demo.options.architecture}"):
        made = demo.installed.verb("model", "untrained", "--architecture", demo.options.architecture, "--seed", "0")
    demo.say(f"radclipd model untrained: {made}")
    demo.say("These weights are UNTRAINED: random numbers. Every score below is meaningless; only the way is real.")


def start_daemon(demo: Demo) -> None:
    """Start the daemon, and a second worker for reports: building them takes longest, and there are two processors."""
    demo.installed.start()
    demo.say(f"radclipd run: AE title RADCLIPD, port {demo.radclipd_port}, process {demo.installed.pid}")
    deadline = time.monotonic() + PORT_SECONDS
    while not _answers(demo.radclipd_port):
        demo.installed.require_alive()
        if time.monotonic() > deadline:
            raise Failed("radclipd did not open its port")
        time.sleep(0.1)
    demo.say(f"radclipd work report: one more worker beside it, process {demo.installed.start_worker('report')}")


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((LOOPBACK, port), timeout=1):
        return True
    return False


def take_films(demo: Demo) -> None:
    """Take phantom films, or read those of a folder, and store each study in the archive, which sends it on at once."""
    examinations, total = _read_films(demo) if demo.options.images else _take_phantoms(demo)
    films = 0
    with contextlib.closing(examinations), demo.bar(total) as show:
        for number, examination in enumerate(examinations, 1):
            demo.hospital.take(examination.study_instance_uid, [scan.content for scan in examination.scans])
            films += len(examination.scans)
            demo.sent.append(Sent(number, examination.study_instance_uid, examination.title, examination.truth))
            show(number, "stored in the archive")
    demo.say_first([f"study {sent.number}: {sent.title}" for sent in demo.sent], "studies")
    demo.say(f"{films} films of {len(demo.sent)} studies are in the archive, which forwards them to radclipd")
    if demo.truths:
        write_truth(demo.folder / TRUTH, demo.truths)


def _take_phantoms(demo: Demo) -> tuple[Examinations, int]:
    demo.films = f"phantom films of the hospital '{UNSEEN_SITE}', enriched in findings"
    demo.say(f"{demo.films}: nobody was X-rayed for this.")
    demo.say(f"One study in {round(1 / scanner.NATURAL_SHARE)} comes as it would at a hospital, from patients who come again;")
    demo.say("the others are chosen so that every finding is there often enough to be measured: prevalences are no hospital's.")
    ordered = scanner.enriched_orders(UNSEEN_SITE, demo.options.studies, seed=demo.options.seed)
    return scanner.taken(ordered, size=(EDGE, EDGE), workers=WORKERS), len(ordered)


def _read_films(demo: Demo) -> tuple[Examinations, int]:
    assert demo.options.images is not None
    found, skipped = film_folder.from_folder(demo.options.images, limit=demo.options.studies)
    demo.films = f"films of the folder {demo.options.images.absolute().name}"
    demo.say(demo.films)
    demo.say_first([f"left out: {left.path.name}: {left.reason}" for left in skipped], "files left out")
    return (examination for examination in found), len(found)


def follow(demo: Demo) -> None:
    """Wait until every study is reported or ignored, and say so as it happens."""
    moved, told = time.monotonic(), 0
    with demo.bar(len(demo.sent)) as show:
        while len(_ended(demo)) < len(demo.sent):
            demo.installed.require_alive()
            require_no_quarantine(demo)
            if news := _look(demo):
                moved = time.monotonic()
                told += _tell(demo, news, told)
            elif time.monotonic() > moved + PATIENCE_SECONDS:
                raise Failed(f"only {len(_ended(demo))} of {len(demo.sent)} studies came to an end")
            counts = Counter(state for state, _ in demo.states.values())
            show(len(_ended(demo)), ", ".join(f"{count} {state}" for state, count in sorted(counts.items())) or "on their way")
            time.sleep(LOOK_SECONDS)
    if len(demo.sent) > FIRST:
        ends = Counter(state + (f" ({reason})" if reason else "") for state, reason in demo.states.values())
        demo.say("; ".join(f"{count} {end}" for end, count in ends.most_common()))


def _ended(demo: Demo) -> list[str]:
    return [study for study, (state, _) in demo.states.items() if state in LAST_STATES]


def _look(demo: Demo) -> list[str]:
    """Note where every study is; return those to which something happened."""
    sent = {one.study_instance_uid for one in demo.sent}
    now = {study: (state, reason) for study, state, reason in demo.rows("SELECT study_instance_uid, state, reason FROM v_studies")}
    news = [study for study in now if study in sent and now[study] != demo.states.get(study)]
    demo.states |= {study: now[study] for study in news}
    return news


def _tell(demo: Demo, news: list[str], told: int) -> int:
    """Say of the first studies that they came to an end; return how many that were."""
    numbers = {sent.study_instance_uid: sent.number for sent in demo.sent}
    ended = [study for study in news if demo.states[study][0] in LAST_STATES][: max(0, FIRST - told)]
    for study in ended:
        state, reason = demo.states[study]
        demo.say(f"study {numbers[study]}: {state}" + (f" ({reason})" if reason else ""))
    return len(ended)


def require_no_quarantine(demo: Demo) -> None:
    """Raise Failed where a job was set aside."""
    for kind, error in demo.rows("SELECT kind, error FROM v_jobs WHERE state = 'quarantined'"):
        raise Failed(f"a {kind} job is in quarantine: {error}")


def ask_archive(demo: Demo) -> None:
    """Fetch the SRs from the archive. What counts is what the archive holds, not what the catalog believes."""
    scored = [study for study, (state, _) in demo.states.items() if state != StudyState.IGNORED.value]
    with demo.bar(len(scored)) as show:
        for number, study in enumerate(scored, 1):
            if found := demo.hospital.reports(study):
                demo.reports[study] = found[-1]
            show(number, "asked for")
    missing = [study for study in scored if study not in demo.reports]
    demo.say(f"the archive holds the SR of {len(demo.reports)} of {len(scored)} scored studies")
    if missing or not scored:
        raise Failed(f"the archive has no SR of {len(missing)} studies" if missing else "no study was scored")


def show_report(demo: Demo) -> None:
    """Print the SR of the first study as the archive gave it back."""
    study = next(sent.study_instance_uid for sent in demo.sent if sent.study_instance_uid in demo.reports)
    for line in text.lines_of_file(demo.reports[study]):
        demo.say(line)


def show_findings(demo: Demo) -> None:
    """Print what SQL sees: v_findings_wide, turned on its side."""
    names = ", ".join(column_of(finding) for finding in FINDINGS)
    found = {row[0]: row[1:] for row in demo.rows(f"SELECT study_instance_uid, marking, {names} FROM v_findings_wide")}
    numbered = [(sent.number, sent.study_instance_uid) for sent in demo.sent if sent.study_instance_uid in found]
    shown = numbered[:SHOWN_STUDIES]
    marking = found[shown[0][1]][0]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=f"v_findings_wide{f' ({marking})' if marking else ''}")
    table.add_column("finding")
    for number, _ in shown:
        table.add_column(f"study {number}", justify="right")
    for index, finding in enumerate(FINDINGS, 1):
        table.add_row(column_of(finding), *(f"{found[study][index]:.3f}" for _, study in shown))
    demo.console.print(table)
    if len(shown) < len(numbered):
        demo.say(f"... and {len(numbered) - len(shown)} studies more")
    keep_scores(demo, ZERO_SHOT)


def keep_scores(demo: Demo, name: str) -> None:
    """Keep what the serving version says of every study, as a column of the outcome."""
    demo.scores[name] = outcome.scores_of(demo.rows("SELECT study_instance_uid, finding, probability FROM v_predictions"))


def show_outcome(demo: Demo) -> None:
    """Compare with the truth, which until here nobody has looked at: a table and a plot."""
    markings = {marking for (marking,) in demo.rows("SELECT DISTINCT marking FROM v_predictions") if marking}
    whose = "none of them labelled" if demo.said else ""
    demo.outcome = outcome.measured(demo.unread, demo.scores, marking=", ".join(sorted(markings)), whose=whose)
    if demo.outcome is None:
        demo.say(f"No table and no plot: nothing says what these films really show ({_wanted(demo)}).")
        return
    demo.console.print(outcome.table(demo.outcome))
    demo.say(f"of {demo.films}")
    if demo.outcome.defined < len(FINDINGS):
        demo.say(f"{outcome.MISSING}  not defined: no study has the finding, or every one")
    if demo.options.images is not None:
        demo.say("The truth is here what the table in the folder says, and the model has never seen a film like these:")
        demo.say("this shows that the way works, and not how good a model can be.")
    outcome.draw(demo.outcome, demo.folder / PLOT, films=demo.films)


def _wanted(demo: Demo) -> str:
    if demo.truths:
        return "of the studies whose truth is known, and that were not labelled, none was scored"
    return f"put labels.csv, Data_Entry_2017_v2020.csv or {TRUTH} into the folder"


def show_places(demo: Demo) -> None:
    """Say where everything lies."""
    folder, installed = demo.installed.folder, demo.installed
    demo.say(f"archive         {demo.hospital.place}" + ("" if demo.options.hold else " (--hold keeps it running)"))
    demo.say(f"configuration   {installed.configuration}")
    demo.say(f"database        {folder / 'radclipd.db'}")
    demo.say(f"received films  {folder / 'images'}")
    demo.say(f"model versions  {folder / 'models'}")
    demo.say(f"daemon's log    {installed.log}")
    if demo.said:
        demo.say(f"labels          {demo.folder / 'labels-*.csv'}, and what was asked for in worklist-*.csv")
    if demo.truths:
        demo.say(f"hidden truth    {demo.folder / TRUTH}")
    if demo.outcome is not None:
        demo.say(f"plot            {demo.folder / PLOT}")
    demo.say(f'ask it          radclipd --config {installed.configuration} query "SELECT * FROM v_reports"')
