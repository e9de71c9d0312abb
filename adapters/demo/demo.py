"""The demonstration: radiographs travel archive -> radclipd -> archive, a few are labelled, radclipd learns from them and scores
the archive again, and in the end it shows what the scores were worth before and after.

Every part is the real one: the archive (Orthanc), the verbs, the daemon, the database. Only the patients do not exist.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from rich.console import Console

from adapters.demo import learning_steps, steps
from adapters.demo.outcome import MISSING
from adapters.demo.scratch import scratch_folder
from adapters.demo.state import Demo, Failed, Options
from pipeline.errors import RadclipdError, TryAgain

__all__ = ["STORY", "Chapter", "Options", "run"]

TAIL_LINES = 25


@dataclass(frozen=True, slots=True)
class Chapter:
    """One step of the story."""

    title: str
    tell: Callable[[Demo], None]


STORY: tuple[Chapter, ...] = (
    Chapter("The hospital has an archive", steps.start_archive),
    Chapter("radclipd is set up beside it", steps.install_radclipd),
    Chapter("It needs weights", steps.import_model),
    Chapter("The daemon starts", steps.start_daemon),
    Chapter("Patients are X-rayed, and the films go to the archive", steps.take_films),
    Chapter("radclipd receives, scores and reports", steps.follow),
    Chapter("The archive has the reports", steps.ask_archive),
    Chapter("One report, as the archive gives it back", steps.show_report),
    Chapter("The same in SQL", steps.show_findings),
    Chapter("A radiologist reads a few studies", learning_steps.read_studies),
    Chapter("radclipd learns from them", learning_steps.learn),
    Chapter("The archive is scored again", learning_steps.follow_rescoring),
    Chapter("The archive has the successors", learning_steps.ask_successors),
    Chapter("What the scores were worth", steps.show_outcome),
    Chapter("Where things lie", steps.show_places),
)
"""The story, in order. Whatever changes the model goes before its worth is shown, and keeps its scores (`chapters.keep_scores`)."""


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
    before, after = (demo.outcome.columns[place].mean if demo.outcome else MISSING for place in (0, -1))
    counts = f"studies={len(demo.sent)} reports={len(demo.reports)} labelled={len(demo.said)}"
    counts += f" zero_shot={before} mean_auc={after} seconds={seconds:.0f}"
    console.print(f"DEMO OK {counts}", highlight=False)
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
