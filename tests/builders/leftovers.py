"""The processes that tests start end with their tests, whatever ends the tests: a failure, a time-out, a signal to pytest, kill -9.

Every process inherits two variables: the run (`SESSION`) and the pytest process that started it (`STARTER`). At the end of a file
of tests what is left of its processes is ended. A watcher outlives pytest and ends what is left of the run. This file is the
watcher's program, too: it needs nothing but the standard library.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

SESSION, STARTER, SCOPE = "RADCLIPD_TEST_SESSION", "RADCLIPD_TEST_STARTER", "RADCLIPD_TEST_SCOPE"
WHOLE_SESSION = "session"
"""Value of SCOPE of processes that serve all files of tests."""
HELPERS = (b"multiprocessing.resource_tracker", b"multiprocessing.forkserver")
"""Processes of Python's own, which serve pytest itself."""
GRACE_SECONDS = 2.0
"""Time from SIGTERM to SIGKILL."""
LOOK_SECONDS = 1.0
"""Interval at which the watcher notes the descendants of pytest: forks of its own do not show variables set later."""

Process = tuple[int, int]
"""Process ID and start time: the ID alone may be used again."""


def begin_session(*, is_worker: bool) -> None:
    """Mark this pytest process; the first of a run starts the watcher."""
    os.environ[STARTER] = uuid.uuid4().hex
    if is_worker:
        return
    os.environ[SESSION] = uuid.uuid4().hex
    words = [sys.executable, "-I", "-S", __file__, str(os.getpid()), os.environ[SESSION]]
    silent = [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in (0, 1, 2)]
    os.posix_spawn(sys.executable, words, {}, file_actions=silent, setsid=True)


@contextmanager
def serving_the_session() -> Iterator[None]:
    """Processes started inside are left running at the end of a file of tests."""
    os.environ[SCOPE] = WHOLE_SESSION
    try:
        yield
    finally:
        del os.environ[SCOPE]


def end_processes_of_file() -> list[str]:
    """End what this pytest process has started and not ended; return the command lines."""
    spared = f"{SCOPE}={WHOLE_SESSION}".encode()
    return end_processes(
        lambda: {each for each in list_marked(STARTER, os.environ[STARTER]) if spared not in _read_environment(each[0])}
    )


def end_processes(find: Callable[[], set[Process]]) -> list[str]:
    """End processes, and those that they start meanwhile: by SIGTERM, after GRACE_SECONDS by SIGKILL. Return the command lines."""
    named: dict[Process, str] = {}
    asked: set[Process] = set()
    deadline = time.monotonic() + GRACE_SECONDS
    while found := {each for each in find() if is_running(each)}:
        named |= {each: _read_command(each[0]) for each in found - named.keys()}
        for each in found:
            if time.monotonic() > deadline:
                _send_signal(each, signal.SIGKILL)
            elif each not in asked:
                _send_signal(each, signal.SIGTERM)
        asked |= found
        time.sleep(0.02)
        if time.monotonic() > deadline + GRACE_SECONDS:
            break
    return list(named.values())


def list_marked(name: str, value: str) -> set[Process]:
    """Return the processes with this variable, or with its value in their command line: another user's variables may be unreadable.

    This process and Python's helpers are excepted.
    """
    found = set()
    for entry in Path("/proc").glob("[0-9]*"):
        number = int(entry.name)
        command = _read_raw_command(number)
        if number == os.getpid() or any(word in command for word in HELPERS):
            continue
        if value.encode() in command or f"{name}={value}".encode() in _read_environment(number):
            found |= _identify_process(number)
    return found


def list_descendants(root: int) -> set[Process]:
    """Return the children of a process, their children, and so on."""
    found: set[Process] = set()
    for entry in Path(f"/proc/{root}/task").glob("*/children"):
        for number in map(int, _read_file(entry).split()):
            found |= _identify_process(number) | list_descendants(number)
    return found


def is_running(process: Process) -> bool:
    """Return whether a process exists and is no zombie."""
    return process in _identify_process(process[0])


def watch(pytest: int, session: str) -> None:
    """Wait for the end of pytest; end what is left of its run."""
    try:
        handle = os.pidfd_open(pytest)
    except ProcessLookupError:
        handle = -1
    seen: set[Process] = set()
    while handle >= 0 and not select.select([handle], [], [], LOOK_SECONDS)[0]:
        seen = {each for each in seen if is_running(each)} | list_descendants(pytest)
    helpers = {each for each in seen if any(word in _read_raw_command(each[0]) for word in HELPERS)}  # they end by themselves
    own = _identify_process(os.getpid())
    end_processes(lambda: (seen - helpers - own) | list_marked(SESSION, session))


def _identify_process(number: int) -> set[Process]:
    """Return the process of this ID; nothing where there is none but a zombie."""
    state, *fields = _read_file(Path(f"/proc/{number}/stat")).rpartition(b")")[2].split() or [b"Z"]
    return set() if state in (b"Z", b"X") else {(number, int(fields[18]))}


def _send_signal(process: Process, number: signal.Signals) -> None:
    if is_running(process):
        try:
            os.kill(process[0], number)
        except ProcessLookupError:
            return


def _read_environment(number: int) -> frozenset[bytes]:
    return frozenset(_read_file(Path(f"/proc/{number}/environ")).split(b"\0"))


def _read_raw_command(number: int) -> bytes:
    return _read_file(Path(f"/proc/{number}/cmdline"))


def _read_command(number: int) -> str:
    return _read_raw_command(number).replace(b"\0", b" ").decode(errors="replace").strip()


def _read_file(path: Path) -> bytes:
    """Return the content; empty for a process that has ended or is another user's."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


if __name__ == "__main__":
    watch(int(sys.argv[1]), sys.argv[2])
