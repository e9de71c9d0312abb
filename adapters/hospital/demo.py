"""The demonstration: a radiograph travels archive -> radclipd -> archive. A story of small steps, told in order.

Every part is the real one: the archive (Orthanc), the verbs, the daemon, the database. Only the patients do not exist.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from adapters.catalog import query
from adapters.catalog.views import column_of
from adapters.dicom import readable
from adapters.hospital import import_films, scanner
from adapters.hospital.archives import HospitalArchive, open_archive
from adapters.hospital.installation import Installation
from adapters.hospital.loopback import LOOPBACK, free_ports
from adapters.hospital.scratch import scratch_folder
from pipeline.domain import FINDINGS, StudyState
from pipeline.errors import RadclipdError, TryAgain

LAST_STATES = {StudyState.REPORTED.value, StudyState.IGNORED.value}
PATIENCE_SECONDS, PATIENCE_PER_STUDY = 120.0, 6.0
"""How long the reports may take: to begin with, and for each study on top."""
LOOK_SECONDS = 0.4
TAIL_LINES = 25
SHOWN_STUDIES = 7
"""Columns of the table of findings that fit on a terminal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What was asked for."""

    studies: int = 6
    images: Path | None = None
    folder: Path | None = None
    hold: bool = False
    seed: int = 0
    embedded: bool = False
    architecture: str = "ViT-B-32"


class Failed(Exception):
    """The story did not end well; the message says where."""


@dataclass(slots=True)
class Demo:
    """The state of the story."""

    options: Options
    console: Console
    folder: Path
    radclipd_port: int = 0
    archive: HospitalArchive | None = None
    radclipd: Installation | None = None
    examinations: list[scanner.Examination] = field(default_factory=list)
    states: dict[str, tuple[str, str]] = field(default_factory=dict)  # study -> state, reason
    reports: dict[str, bytes] = field(default_factory=dict)  # study -> the SR that the archive holds

    def say(self, words: str) -> None:
        """Say one line of the story."""
        self.console.print(f"  {words}", highlight=False, markup=False, soft_wrap=True)

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """Ask radclipd's database."""
        return query.run(self.installed.catalog_url, sql)[1]

    @property
    def installed(self) -> Installation:
        """The radclipd of this story."""
        assert self.radclipd is not None
        return self.radclipd

    @property
    def hospital(self) -> HospitalArchive:
        """The archive of this story."""
        assert self.archive is not None
        return self.archive


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


def make_model(demo: Demo) -> None:
    """Make weights of the real size that have learnt nothing."""
    with demo.console.status(f"drawing the random numbers of {demo.options.architecture}"):
        made = demo.installed.verb("model", "untrained", "--architecture", demo.options.architecture, "--seed", "0")
    demo.say(f"radclipd model untrained: {made}")
    demo.say("These weights are UNTRAINED: random numbers. Every score below is meaningless; only the way is real.")


def start_daemon(demo: Demo) -> None:
    """Start the daemon itself."""
    demo.installed.start()
    demo.say(f"radclipd run: AE title RADCLIPD, port {demo.radclipd_port}, process {demo.installed.pid}")
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not _answers(demo.radclipd_port):
        demo.installed.require_alive()
        if time.monotonic() > deadline:
            raise Failed("radclipd did not open its port")
        time.sleep(0.1)


def _answers(port: int) -> bool:
    import socket

    with contextlib.suppress(OSError), socket.create_connection((LOOPBACK, port), timeout=1):
        return True
    return False


def make_films(demo: Demo) -> None:
    """Take phantom films, or read those of a folder."""
    if demo.options.images is None:
        demo.examinations = scanner.day(demo.options.studies, seed=demo.options.seed)
        demo.say("phantoms: nobody was X-rayed for this")
    else:
        demo.examinations, skipped = import_films.from_folder(demo.options.images, limit=demo.options.studies)
        for left in skipped:
            demo.say(f"left out: {left.path.name}: {left.reason}")
    for number, examination in enumerate(demo.examinations, 1):
        demo.say(f"study {number}: {examination.title}")


def fill_archive(demo: Demo) -> None:
    """Store the films in the archive, which sends them on."""
    for examination in demo.examinations:
        demo.hospital.take(examination.study_instance_uid, [scan.content for scan in examination.scans])
    films = sum(len(examination.scans) for examination in demo.examinations)
    demo.say(f"{films} films of {len(demo.examinations)} studies are in the archive, which forwards them to radclipd")


def follow(demo: Demo) -> None:
    """Wait until every study is reported or ignored, and say so as it happens."""
    deadline = time.monotonic() + PATIENCE_SECONDS + PATIENCE_PER_STUDY * len(demo.examinations)
    columns = (TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=demo.console, transient=True) as progress:
        bar = progress.add_task("studies", total=len(demo.examinations))
        while len(_ended(demo)) < len(demo.examinations):
            demo.installed.require_alive()
            _require_no_quarantine(demo)
            if time.monotonic() > deadline:
                raise Failed(f"only {len(_ended(demo))} of {len(demo.examinations)} studies came to an end")
            _look(demo)
            counts = Counter(state for state, _ in demo.states.values())
            words = ", ".join(f"{count} {state}" for state, count in sorted(counts.items())) or "on their way"
            progress.update(bar, completed=len(_ended(demo)), description=words)
            time.sleep(LOOK_SECONDS)


def _ended(demo: Demo) -> list[str]:
    return [study for study, (state, _) in demo.states.items() if state in LAST_STATES]


def _look(demo: Demo) -> None:
    numbers = {examination.study_instance_uid: n for n, examination in enumerate(demo.examinations, 1)}
    for study, state, reason in demo.rows("SELECT study_instance_uid, state, reason FROM v_studies"):
        if study in numbers and demo.states.get(study) != (state, reason):
            demo.states[study] = (state, reason)
            if state in LAST_STATES:
                demo.say(f"study {numbers[study]}: {state}" + (f" ({reason})" if reason else ""))


def _require_no_quarantine(demo: Demo) -> None:
    for kind, error in demo.rows("SELECT kind, error FROM v_jobs WHERE state = 'quarantined'"):
        raise Failed(f"a {kind} job is in quarantine: {error}")


def ask_archive(demo: Demo) -> None:
    """Fetch the SRs from the archive. What counts is what the archive holds, not what the catalog believes."""
    scored = [study for study, (state, _) in demo.states.items() if state != StudyState.IGNORED.value]
    for study in scored:
        found = demo.hospital.reports(study)
        if found:
            demo.reports[study] = found[-1]
    missing = [study for study in scored if study not in demo.reports]
    demo.say(f"the archive holds the SR of {len(demo.reports)} of {len(scored)} scored studies")
    if missing or not scored:
        raise Failed(f"the archive has no SR of {len(missing)} studies" if missing else "no study was scored")


def show_report(demo: Demo) -> None:
    """Print the SR of the first study as the archive gave it back."""
    study = next(e.study_instance_uid for e in demo.examinations if e.study_instance_uid in demo.reports)
    for line in readable.lines_of_file(demo.reports[study]):
        demo.say(line)


def show_findings(demo: Demo) -> None:
    """Print what SQL sees: v_findings_wide, turned on its side."""
    names = ", ".join(column_of(finding) for finding in FINDINGS)
    found = {row[0]: row[1:] for row in demo.rows(f"SELECT study_instance_uid, marking, {names} FROM v_findings_wide")}
    numbered = [(n, e.study_instance_uid) for n, e in enumerate(demo.examinations, 1) if e.study_instance_uid in found]
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


def show_places(demo: Demo) -> None:
    """Say where everything lies."""
    folder, installed = demo.installed.folder, demo.installed
    demo.say(f"archive         {demo.hospital.place}" + ("" if demo.options.hold else " (--hold keeps it running)"))
    demo.say(f"configuration   {installed.configuration}")
    demo.say(f"database        {folder / 'radclipd.db'}")
    demo.say(f"received films  {folder / 'images'}")
    demo.say(f"model versions  {folder / 'models'}")
    demo.say(f"daemon's log    {installed.log}")
    demo.say(f'ask it          radclipd --config {installed.configuration} query "SELECT * FROM v_reports"')


@dataclass(frozen=True, slots=True)
class Chapter:
    """One step of the story."""

    title: str
    tell: Callable[[Demo], None]


STORY: tuple[Chapter, ...] = (
    Chapter("The hospital has an archive", start_archive),
    Chapter("radclipd is set up beside it", install_radclipd),
    Chapter("It needs weights", make_model),
    Chapter("The daemon starts", start_daemon),
    Chapter("Patients are X-rayed", make_films),
    Chapter("The films go to the archive", fill_archive),
    Chapter("radclipd receives, scores and reports", follow),
    Chapter("The archive has the reports", ask_archive),
    Chapter("One report, as the archive gives it back", show_report),
    Chapter("The same in SQL", show_findings),
    Chapter("Where things lie", show_places),
)
"""The story, in order. Later chapters go where they belong in it."""


def run(options: Options, console: Console) -> int:
    """Tell the story; return the exit status. The last line printed is `DEMO OK ...` or `DEMO FAILED ...`."""
    started = time.monotonic()
    demo = Demo(options, console, scratch_folder(options.folder))
    try:
        with _clean_stop(demo):
            for number, chapter in enumerate(STORY, 1):
                console.print(f"[bold]{number}. {chapter.title}[/bold]", highlight=False)
                chapter.tell(demo)
            seconds = time.monotonic() - started
            if options.hold:
                _hold(demo)
    except (Failed, RadclipdError, KeyboardInterrupt) as error:
        return _failed(demo, error)
    console.print(f"DEMO OK studies={len(demo.examinations)} reports={len(demo.reports)} seconds={seconds:.0f}", highlight=False)
    return 0


def _hold(demo: Demo) -> None:
    demo.say("Everything keeps running. Ctrl-C ends it.")
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            demo.installed.require_alive()
            time.sleep(1)


def _failed(demo: Demo, error: BaseException) -> int:
    words = str(error) or "interrupted"
    if demo.radclipd and demo.radclipd.log.exists() and not isinstance(error, KeyboardInterrupt):
        demo.console.print(f"The end of the log of the daemon ({demo.radclipd.log}):", highlight=False, soft_wrap=True)
        for line in demo.radclipd.last_words(TAIL_LINES) or ["(it is empty)"]:
            demo.say(line)
    if hint := getattr(error, "hint", ""):
        demo.say(f"hint: {hint}")
    first = words.splitlines()[0] + (" (passing: try again)" if isinstance(error, TryAgain) else "")
    demo.console.print(f"DEMO FAILED {first}", highlight=False, markup=False, soft_wrap=True)
    return 1


@contextlib.contextmanager
def _clean_stop(demo: Demo) -> Iterator[None]:
    """Stop every process that the story started, however it ends: by itself, by an error, by Ctrl-C, by SIGTERM."""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupted)
    try:
        yield
    finally:
        impatient = signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        # Together: the listener drains until the archive lets its association go.
        with ThreadPoolExecutor() as both:
            for stopped in [both.submit(part.stop) for part in (demo.archive, demo.radclipd) if part is not None]:
                stopped.result()
        signal.signal(signal.SIGINT, impatient)
        signal.signal(signal.SIGTERM, before)
