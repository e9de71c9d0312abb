"""The demonstration: radiographs go from the archive to radclipd and reports back, some studies are labelled, radclipd learns
from them and re-scores the archive; the scores before and after are evaluated.

Archive (Orthanc), verbs, daemon and database are real. Only the patients are simulated.
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
from adapters.demo.evaluation import UNDEFINED
from adapters.demo.installation import DESK_USER
from adapters.demo.scratch import scratch_folder
from adapters.demo.state import DemoFailed, DemoOptions, DemoState
from pipeline.errors import PermanentError, RadclipdError, TransientError

__all__ = ["DEMO_STEPS", "DemoOptions", "DemoStep", "run_demo"]

TAIL_LINES = 25


@dataclass(frozen=True, slots=True)
class DemoStep:
    """One step of the demonstration."""

    title: str
    run: Callable[[DemoState], None]


DEMO_STEPS: tuple[DemoStep, ...] = (
    DemoStep("The hospital has an archive", steps.start_archive),
    DemoStep("radclipd is set up beside it", steps.install_radclipd),
    DemoStep("It needs weights", steps.import_model),
    DemoStep("The daemon starts", steps.start_daemon),
    DemoStep("Patients are X-rayed, and the films go to the archive", steps.send_studies),
    DemoStep("radclipd receives, scores and reports", steps.wait_for_reports),
    DemoStep("The archive has the reports", steps.fetch_reports),
    DemoStep("One report, as the archive gives it back", steps.show_report),
    DemoStep("The same in SQL", steps.show_findings),
    DemoStep("A radiologist reads a few studies", learning_steps.read_studies),
    DemoStep("radclipd learns from them", learning_steps.run_learning),
    DemoStep("The archive is scored again", learning_steps.wait_for_rescoring),
    DemoStep("The archive has the successors", learning_steps.fetch_successors),
    DemoStep("What the scores were worth", steps.show_evaluation),
    DemoStep("Where things lie", steps.show_locations),
)
"""Steps in order. Steps that change the model precede the evaluation and record its scores (`steps.record_scores`)."""


def run_demo(options: DemoOptions, console: Console) -> int:
    """Run the demonstration; return the exit status. The last line printed is `DEMO OK ...` or `DEMO FAILED ...`."""
    started = time.monotonic()
    demo = DemoState(options, console, scratch_folder(options.folder))
    try:
        with _stop_on_exit(demo):
            for number, step in enumerate(DEMO_STEPS, 1):
                console.print(f"[bold]{number}. {step.title}[/bold]", highlight=False)
                step.run(demo)
            seconds = time.monotonic() - started
            if options.hold:
                _keep_running(demo)
    except (DemoFailed, RadclipdError, KeyboardInterrupt) as error:
        return _report_failure(demo, error)
    before, after = (demo.evaluation.performances[index].mean if demo.evaluation else UNDEFINED for index in (0, -1))
    counts = f"studies={len(demo.sent_studies)} reports={len(demo.reports)} labelled={len(demo.reader_findings)}"
    counts += f" zero_shot={before} mean_auc={after} seconds={seconds:.0f}"
    console.print(f"DEMO OK {counts}", highlight=False)
    return 0


def _keep_running(demo: DemoState) -> None:
    try:
        address, password = demo.installation.serve_desk()
        demo.print_line(f"desk            {address}  user {DESK_USER}  password {password}")
    except PermanentError as error:  # without the extra radclipd[web]
        demo.print_line(f"no desk         {error}")
    demo.print_line("Everything keeps running. Ctrl-C ends it.")
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            demo.installation.require_alive()
            time.sleep(1)


def _report_failure(demo: DemoState, error: BaseException) -> int:
    message = str(error) or "interrupted"
    if demo.radclipd and demo.radclipd.log.exists() and not isinstance(error, KeyboardInterrupt):
        demo.console.print(f"The end of the log of the daemon ({demo.radclipd.log}):", highlight=False, soft_wrap=True)
        for line in demo.radclipd.read_log_tail(TAIL_LINES) or ["(it is empty)"]:
            demo.print_line(line)
    if hint := getattr(error, "hint", ""):
        demo.print_line(f"hint: {hint}")
    first = message.splitlines()[0] + (" (passing: try again)" if isinstance(error, TransientError) else "")
    demo.console.print(f"DEMO FAILED {first}", highlight=False, markup=False, soft_wrap=True)
    return 1


@contextlib.contextmanager
def _stop_on_exit(demo: DemoState) -> Iterator[None]:
    """Stop every process of the demonstration on exit: normal, by an error, by Ctrl-C or by SIGTERM."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    previous_sigterm = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        previous_sigint = signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        # In parallel: the listener drains until the archive releases its association.
        with ThreadPoolExecutor() as both:
            for stopped in [both.submit(part.stop) for part in (demo.archive, demo.radclipd) if part is not None]:
                stopped.result()
        signal.signal(signal.SIGINT, previous_sigint)
        signal.signal(signal.SIGTERM, previous_sigterm)
