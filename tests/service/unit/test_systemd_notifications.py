"""Notifications to systemd, sockets passed by systemd, signals and health checks."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from adapters.service import systemd as notifications
from adapters.service.health import HealthMonitor, HealthProbe, notify_systemd
from adapters.service.signals import StopSignal
from adapters.service.systemd import Notifier, bind, listening_sockets
from pipeline.errors import FatalError

ROOT = Path(__file__).resolve().parents[3]


class Systemd:
    """The receiving end of notifications."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address.replace("@", "\0"))
        self.socket.settimeout(10)
        self.environment = {"NOTIFY_SOCKET": address}

    def receive(self) -> str:
        return self.socket.recv(4096).decode()

    def receive_all(self) -> list[str]:
        """All messages that have arrived."""
        messages = []
        self.socket.setblocking(False)
        while True:
            try:
                messages.append(self.socket.recv(4096).decode())
            except BlockingIOError:
                return messages

    def receive_until(self, text: str) -> str:
        while text not in (message := self.receive()):
            pass
        return message


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Systemd]:
    systemd = Systemd(f"@radclipd-{uuid.uuid4()}" if request.param == "abstract" else str(tmp_path / "notify"))
    yield systemd
    systemd.socket.close()


def test_each_notification_is_one_datagram(systemd: Systemd) -> None:
    notifier = Notifier(systemd.environment)
    notifier.ready("queue 12\nmodel 7")
    assert systemd.receive() == "READY=1\nSTATUS=queue 12 model 7"
    notifier.watchdog()
    assert systemd.receive() == "WATCHDOG=1"
    notifier.extend_timeout(2.5)
    assert systemd.receive() == "EXTEND_TIMEOUT_USEC=2500000"
    notifier.stopping("bye")
    assert systemd.receive() == "STOPPING=1\nSTATUS=bye"


def test_reloading_carries_the_monotonic_clock(systemd: Systemd) -> None:
    before = time.monotonic_ns() // 1000
    Notifier(systemd.environment).reloading()
    first, second = systemd.receive().splitlines()
    assert first == "RELOADING=1"
    assert before <= int(second.removeprefix("MONOTONIC_USEC=")) <= time.monotonic_ns() // 1000


def test_notifications_outside_systemd_are_dropped(tmp_path: Path) -> None:
    Notifier({}).ready("fine")
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready("fine")


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "3000000"}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog_interval_is_read_only_for_our_process_id(environment: dict[str, str], seconds: float | None) -> None:
    assert Notifier(environment).watchdog_seconds == seconds


ADOPT = """
import os, sys
if sys.argv[1] == "systemd":
    os.environ["LISTEN_PID"] = str(os.getpid())
    os.dup2(int(sys.argv[2]), 3)
from adapters.service.systemd import listening_sockets
print([s.getsockname()[1] for s in listening_sockets()], listening_sockets(), [n for n in os.environ if "LISTEN" in n])
"""


def adopted_by_a_child(descriptor: int, how: str) -> str:
    """Start a child that gets the descriptor: as number 3 by systemd's convention, or under its own number by ours."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    argv = [sys.executable, "-c", ADOPT, how, str(descriptor)]
    if how == "systemd":
        environment |= {"LISTEN_FDS": "1", "LISTEN_FDNAMES": "dicom"}
    else:
        environment |= {notifications.INHERITED_FDS: str(descriptor)}
    done = subprocess.run(argv, env=environment, pass_fds=[descriptor], capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.strip()


@pytest.mark.parametrize("how", ["systemd", "ours"])
def test_passed_sockets_are_adopted_once(how: str) -> None:
    with bind("127.0.0.1", 0) as sock:
        assert adopted_by_a_child(sock.fileno(), how) == f"[{sock.getsockname()[1]}] [] []"


def test_sockets_meant_for_another_process_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTEN_PID", "1")
    monkeypatch.setenv("LISTEN_FDS", "1")
    assert listening_sockets() == []
    assert "LISTEN_FDS" not in os.environ


def test_a_passed_descriptor_that_does_not_listen_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with socket.socket() as sock:
        monkeypatch.setenv(notifications.INHERITED_FDS, str(os.dup(sock.fileno())))
        with pytest.raises(FatalError, match="no listening stream socket"):
            listening_sockets()
    with (tmp_path / "file").open("w") as file:
        monkeypatch.setenv(notifications.INHERITED_FDS, str(file.fileno()))
        with pytest.raises(FatalError, match="no socket"):
            listening_sockets()


def test_a_taken_port_cannot_be_bound() -> None:
    with bind("127.0.0.1", 0) as sock, pytest.raises(FatalError, match="cannot listen") as caught:
        bind("127.0.0.1", sock.getsockname()[1])
    assert "listener.port" in caught.value.hint


def test_a_stop_signal_ends_every_wait() -> None:
    woken = []
    with StopSignal() as stop:
        threads = [threading.Thread(target=lambda: woken.append(stop.wait(30))) for _ in range(3)]
        for thread in threads:
            thread.start()
        os.kill(os.getpid(), signal.SIGTERM)
        for thread in threads:
            thread.join(10)
        assert woken == [True, True, True]
        assert stop.wait(30)
        assert stop.is_set()


def test_a_reload_request_is_consumed_once_and_is_no_stop() -> None:
    with StopSignal() as stop:
        os.kill(os.getpid(), signal.SIGHUP)
        begun = time.monotonic()
        assert not stop.wait(30)
        assert time.monotonic() - begun < 10
        assert stop.reload_requested
        assert stop.consume_reload()
        assert not stop.consume_reload()


def test_signal_handlers_are_restored() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with StopSignal():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


def until(condition: object, seconds: float = 10.0) -> bool:
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.01)
    return False


def test_a_hung_probe_fails_and_reports_its_name() -> None:
    release = threading.Event()

    def write_to_catalog() -> None:
        release.wait(30)

    probe = HealthProbe(write_to_catalog, every=0.01, within=0.05)
    probe.start()
    assert until(lambda: probe.failure.startswith("write to catalog: no answer"))
    assert not probe.passed_since(0.0)
    release.set()
    assert until(lambda: probe.passed_since(time.monotonic() - 0.05))
    assert until(lambda: not probe.failure)
    probe.stop()


def test_a_slow_probe_fails() -> None:
    probe = HealthProbe(lambda: time.sleep(0.1), every=0.01, within=0.05)
    probe.start()
    assert until(lambda: "took" in probe.failure)
    assert not probe.passed_since(0.0)
    probe.stop()


def test_the_watchdog_is_fed_only_while_every_probe_passes(systemd: Systemd) -> None:
    well = threading.Event()
    well.set()

    def echo() -> None:
        if not well.is_set():
            raise TimeoutError("no C-ECHO response")

    watch = HealthMonitor(Notifier({**systemd.environment, "WATCHDOG_USEC": "800000"}), [echo, lambda: None], lambda: "fine")
    watch.start()

    def fed_within(seconds: float) -> list[str]:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            watch.tick()
            time.sleep(watch.period)
        return systemd.receive_all()

    assert fed_within(2.0).count("WATCHDOG=1") >= 3
    well.clear()
    fed_within(0.8)
    assert fed_within(1.0) == []
    assert watch.status_line == "echo: no C-ECHO response"
    well.set()
    assert "WATCHDOG=1" in fed_within(1.0)
    watch.stop()


def test_a_single_process_is_ready_when_its_checks_pass(systemd: Systemd, monkeypatch: pytest.MonkeyPatch) -> None:
    well = threading.Event()

    def database() -> None:
        if not well.is_set():
            raise ConnectionError("refused")

    with notify_systemd(Notifier({**systemd.environment, "WATCHDOG_USEC": "400000"}), [database], lambda: "queue 3"):
        assert systemd.receive_until("database") == "STATUS=database: refused"
        assert not any("READY" in message for message in systemd.receive_all())
        systemd.socket.settimeout(10)
        well.set()
        systemd.receive_until("READY=1")
        systemd.receive_until("WATCHDOG=1")
        systemd.receive_until("STATUS=queue 3")
    assert any(message.startswith("STOPPING=1") for message in systemd.receive_all())
