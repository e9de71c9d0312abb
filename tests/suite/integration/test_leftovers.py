"""No process of a test outlives its pytest run, whatever ends the run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from tests.builders import leftovers

ROOT = Path(__file__).parents[3]
TOKEN = "RADCLIPD_TEST_TOKEN"
PATIENCE = 60.0

CONFTEST = "from tests.conftest import cluster, pytest_configure, pytest_runtest_teardown"
DAEMON = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.signal(signal.SIGINT, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    time.sleep(300)
"""
TESTS = """
import os, subprocess, sys, time
from pathlib import Path
import pytest

DAEMON = {daemon!r}

def test_one():
    subprocess.Popen(["sleep", "300"])
    subprocess.run([sys.executable, "-S", "-c", DAEMON], check=True)  # its child is a session of its own and heeds no SIGTERM
    {ends}

def test_two():
    (Path(__file__).parent / "two").touch()
    {waits}
"""
FOLLOWING = """
import os
from tests.builders import leftovers

def test_the_file_before_has_left_nothing():
    assert not leftovers.list_marked({token!r}, os.environ[{token!r}])
"""
SERVER = """
import time
from pathlib import Path

def test_server(cluster):
    (Path(__file__).parent / "two").write_text(str(cluster.folder))
    time.sleep(200)
"""


@pytest.fixture
def token(monkeypatch: pytest.MonkeyPatch) -> str:
    """A variable that every process of the inner run has."""
    monkeypatch.setenv(TOKEN, uuid.uuid4().hex)
    return os.environ[TOKEN]


def write_tests(folder: Path, *, ends: str = "assert False", waits: str = "") -> None:
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "test_inner.py").write_text(TESTS.format(daemon=DAEMON, ends=ends, waits=waits))


def start_pytest(folder: Path, *words: str) -> subprocess.Popen[str]:
    plain = ["-p", "no:cacheprovider", "-p", "no:hypothesispytest", "-c", os.devnull, "--rootdir", str(folder)]
    return subprocess.Popen(
        [sys.executable, "-m", "pytest", "-q", *plain, *words, str(folder)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run_pytest(folder: Path, *words: str) -> tuple[int, str]:
    with start_pytest(folder, *words) as run:
        said, _ = run.communicate(timeout=PATIENCE)
        return run.returncode, said


def interrupt_pytest(folder: Path, number: signal.Signals, token: str, *words: str) -> None:
    """Send a signal to pytest within the second test."""
    with start_pytest(folder, *words) as run:
        deadline = time.monotonic() + PATIENCE
        while not (folder / "two").exists():
            assert run.poll() is None, run.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert len(leftovers.list_marked(TOKEN, token)) >= 2
        run.send_signal(number)
        run.wait(PATIENCE)


def wait_until_nothing_runs(token: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while left := leftovers.list_marked(TOKEN, token):
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


@pytest.mark.parametrize("ends", ["pass", "os._exit(3)", "time.sleep(100)"])
def test_a_run_ends_what_its_tests_started(ends: str, token: str, tmp_path: Path) -> None:
    """A test that forgets, a crash of pytest, a time-out that ends pytest."""
    write_tests(tmp_path, ends=ends)
    status, said = run_pytest(tmp_path, *(["-o", "timeout=3", "-o", "timeout_method=thread"] if "sleep" in ends else []))
    assert (status == 0) == (ends == "pass"), said
    wait_until_nothing_runs(token)


def test_the_processes_of_a_file_end_with_it(token: str, tmp_path: Path) -> None:
    write_tests(tmp_path)
    (tmp_path / "test_later.py").write_text(FOLLOWING.format(token=TOKEN))
    _, said = run_pytest(tmp_path)
    assert "1 failed, 2 passed" in said
    wait_until_nothing_runs(token)


@pytest.mark.parametrize(
    ("number", "words"),
    [
        pytest.param(signal.SIGTERM, ["-n", "1"], id="SIGTERM, several processes"),
        pytest.param(signal.SIGINT, [], id="SIGINT"),
        pytest.param(signal.SIGKILL, ["-n", "1"], id="SIGKILL, several processes"),
    ],
)
def test_a_signal_to_pytest_ends_everything(number: signal.Signals, words: list[str], token: str, tmp_path: Path) -> None:
    write_tests(tmp_path, ends="pass", waits="time.sleep(200)")
    interrupt_pytest(tmp_path, number, token, *words)
    wait_until_nothing_runs(token)


@pytest.mark.postgres
def test_a_database_server_ends_with_a_killed_run(token: str, tmp_path: Path) -> None:
    write_tests(tmp_path)
    (tmp_path / "test_inner.py").write_text(SERVER)
    interrupt_pytest(tmp_path, signal.SIGKILL, token)
    wait_until_nothing_runs(token)
    folder = Path((tmp_path / "two").read_text())
    server = folder / "cluster" / "postmaster.pid"
    assert not server.exists() or not Path(f"/proc/{server.read_text().split()[0]}").exists()
