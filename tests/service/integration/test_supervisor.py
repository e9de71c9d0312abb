"""The supervisor in a real process with small children, and a socket in place of systemd's."""

from __future__ import annotations

import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]

PARENT = """
import sys
from pathlib import Path
from adapters.service.systemd import bind
from adapters.service.supervisor import Role, Supervisor, SupervisorTimings
from pipeline.errors import ConfigurationError

scene = Path(sys.argv[1])

def must(name):
    def probe():
        if not (scene / name).exists():
            raise TimeoutError(f"no {name}")
    probe.__name__ = name
    return probe

def child(name, **more):
    return Role(name, [sys.executable, "-S", "-P", str(scene / f"{name}.py"), str(scene)], **more)

def roles():
    worker = child("worker", stop_seconds=1.0, waits_for_probes=patience > 0)
    return [worker, child("listener", takes_socket=True, stop_seconds=1.0)]

def reload():
    if (scene / "broken").exists():
        raise ConfigurationError("listener.prot is not a key", hint="rename it")
    return [*roles(), child("extra")]

def status():
    return (scene / "status").read_text()

patience = float((scene / "patience").read_text())
sock = bind("127.0.0.1", 0)
(scene / "port").write_text(str(sock.getsockname()[1]))
timings = SupervisorTimings(backoff_base=0.05, backoff_cap=0.2, probe_wait_limit=patience, tick=0.05)
probes = [must("echo"), must("database")]
supervisor = Supervisor(roles(), sockets=[sock], probes=probes, status=status, reload=reload, timings=timings)
raise SystemExit(supervisor.run())
"""

WORKER = """
import os, signal, sys, time
from pathlib import Path
scene, name = Path(sys.argv[1]), Path(sys.argv[0]).stem
def on_stop(number, frame):
    with (scene / "events").open("a") as events: events.write(f"{name} stopping\\n")
    time.sleep(STOPPING)
    with (scene / "events").open("a") as events: events.write(f"{name} ended\\n")
    os._exit(0)
signal.signal(signal.SIGTERM, on_stop)
if (scene / f"{name}.refuses").exists(): sys.exit(78)
(scene / f"{name}.env").write_text("\\n".join(os.environ))
(scene / f"{name}.new").write_text(str(os.getpid()))
(scene / f"{name}.new").replace(scene / f"{name}.pid")
while True: time.sleep(60)
"""

LISTENER = WORKER.replace(
    "while True: time.sleep(60)",
    """
import socket
sock = socket.socket(fileno=int(os.environ["RADCLIPD_LISTEN_FDS"]))
while True:
    peer, _ = sock.accept()
    peer.sendall(str(os.getpid()).encode())
    peer.close()
""",
)


def until(condition: object, seconds: float = 20.0) -> None:
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not come true"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


class Scene:
    """A folder with the scripts, a parent that runs them, and systemd's end of the notification socket."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.write("worker.py", WORKER.replace("STOPPING", "0"))
        self.write("extra.py", WORKER.replace("STOPPING", "0"))
        self.write("listener.py", LISTENER.replace("STOPPING", "0.3"))
        self.write("status", "queue 3")
        self.write("patience", "0")
        self.write("echo", "")
        self.write("database", "")
        self.systemd = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.systemd.bind(str(folder / "notify"))
        self.messages: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.listening = threading.Thread(target=self.listen, daemon=True)
        self.listening.start()
        self.parent: subprocess.Popen[bytes] | None = None

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)

    def start(self, *, watchdog_seconds: float = 0.8, ready: bool = True) -> subprocess.Popen[bytes]:
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "NOTIFY_SOCKET": str(self.folder / "notify"),
            "WATCHDOG_USEC": str(int(watchdog_seconds * 1e6)),
        }
        self.parent = subprocess.Popen([sys.executable, "-c", PARENT, str(self.folder)], env=environment)
        if ready:
            self.receive("READY=1")
            until(lambda: self.has("worker.pid") and self.has("listener.pid"))
        return self.parent

    def listen(self) -> None:
        while message := self.systemd.recv(4096).decode():
            self.messages.put(message)

    def receive(self, words: str) -> str:
        deadline = time.monotonic() + 20
        while words not in (message := self.messages.get(timeout=20)):
            assert time.monotonic() < deadline, f"no message with {words}"
        return message

    def receive_within(self, seconds: float) -> list[str]:
        messages, deadline = [], time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            try:
                messages.append(self.messages.get(timeout=left))
            except queue.Empty:
                break
        return messages

    def has(self, name: str) -> bool:
        return (self.folder / name).exists()

    def pid(self, name: str) -> int:
        return int((self.folder / f"{name}.pid").read_text())

    def connect(self) -> int:
        """Return the process id that answers on the port."""
        with socket.create_connection(("127.0.0.1", int((self.folder / "port").read_text())), timeout=20) as peer:
            return int(peer.recv(100))

    def signal(self, number: signal.Signals) -> None:
        assert self.parent is not None
        self.parent.send_signal(number)

    def end(self) -> None:
        if self.parent is not None and self.parent.poll() is None:
            self.parent.kill()
            self.parent.wait()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
            last.sendto(b"", str(self.folder / "notify"))
        self.listening.join(20)
        self.systemd.close()


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(tmp_path)
    yield scene
    scene.end()


def test_ready_is_sent_when_every_probe_passes(scene: Scene) -> None:
    (scene.folder / "database").unlink()
    scene.start(ready=False)
    messages = scene.receive_within(1.5)
    assert not any("READY" in message for message in messages)
    assert any(message.startswith("EXTEND_TIMEOUT_USEC=") for message in messages)
    assert "STATUS=database: no database" in messages
    scene.write("database", "")
    assert scene.receive("READY=1") == "READY=1\nSTATUS=queue 3"
    scene.write("status", "queue 4")
    scene.receive("STATUS=queue 4")


def test_a_role_that_waits_for_probes_starts_when_every_probe_passes(scene: Scene) -> None:
    scene.write("patience", "600")
    (scene.folder / "echo").unlink()
    scene.start(ready=False)
    until(lambda: scene.has("listener.pid"))
    messages = scene.receive_within(1.0)
    assert not scene.has("worker.pid")
    assert not any("READY" in message or "restart" in message for message in messages)
    scene.write("echo", "")
    scene.receive("READY=1")
    until(lambda: scene.has("worker.pid"))


def test_a_role_starts_after_the_probe_wait_limit(scene: Scene) -> None:
    scene.write("patience", "0.5")
    (scene.folder / "echo").unlink()
    scene.start(ready=False)
    until(lambda: scene.has("worker.pid"))
    assert not any("READY" in message for message in scene.receive_within(0.3))


def test_a_killed_child_is_restarted_and_the_others_run_on(scene: Scene) -> None:
    scene.start()
    worker, listener = scene.pid("worker"), scene.pid("listener")
    os.kill(worker, signal.SIGKILL)
    until(lambda: scene.pid("worker") != worker)
    assert scene.pid("listener") == listener
    os.kill(scene.pid("worker"), signal.SIGKILL)
    scene.receive("STATUS=waiting to restart worker")
    scene.receive("STATUS=queue 3")


def test_only_the_listener_inherits_the_socket_and_no_child_inherits_variables_of_systemd(scene: Scene) -> None:
    scene.start()
    assert scene.connect() == scene.pid("listener")
    for name in ("worker", "listener"):
        variables = (scene.folder / f"{name}.env").read_text().splitlines()
        assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC", "LISTEN_FDS", "LISTEN_PID"} & set(variables)
        assert ("RADCLIPD_LISTEN_FDS" in variables) == (name == "listener")


def test_no_connection_is_refused_while_the_listener_is_replaced(scene: Scene) -> None:
    scene.start()
    first = scene.pid("listener")
    os.kill(first, signal.SIGKILL)
    until(lambda: not alive(first))
    answered = [scene.connect() for _ in range(20)]
    assert len(set(answered) - {first}) == 1


@pytest.mark.parametrize("probe", ["echo", "database"])
def test_the_watchdog_is_withheld_while_a_probe_fails(scene: Scene, probe: str) -> None:
    scene.start()
    scene.receive("WATCHDOG=1")
    (scene.folder / probe).unlink()
    scene.receive_within(0.8)
    assert "WATCHDOG=1" not in scene.receive_within(1.2)
    scene.write(probe, "")
    scene.receive("WATCHDOG=1")


def test_a_reload_replaces_the_children_and_starts_new_ones(scene: Scene) -> None:
    scene.start()
    before = {scene.pid("worker"), scene.pid("listener")}
    scene.signal(signal.SIGHUP)
    assert "MONOTONIC_USEC=" in scene.receive("RELOADING=1")
    scene.receive("READY=1")
    until(lambda: scene.has("extra.pid"))
    until(lambda: not before & {scene.pid("worker"), scene.pid("listener")})
    assert not any(alive(pid) for pid in before)
    assert scene.connect() == scene.pid("listener")


def test_a_reload_of_a_broken_configuration_changes_nothing(scene: Scene) -> None:
    scene.start()
    before = (scene.pid("worker"), scene.pid("listener"))
    scene.write("broken", "")
    scene.signal(signal.SIGHUP)
    scene.receive("RELOADING=1")
    assert scene.receive("READY=1") == "READY=1\nSTATUS=reload refused: listener.prot is not a key"
    assert (scene.pid("worker"), scene.pid("listener")) == before
    scene.receive("WATCHDOG=1")


def test_a_stop_drains_the_listener_before_the_others(scene: Scene) -> None:
    parent = scene.start()
    scene.signal(signal.SIGTERM)
    scene.receive("STOPPING=1")
    assert parent.wait(20) == 0
    assert (scene.folder / "events").read_text().split("\n")[:-1] == [
        "listener stopping",
        "listener ended",
        "worker stopping",
        "worker ended",
    ]


def test_a_child_that_does_not_stop_is_killed_at_its_deadline(scene: Scene) -> None:
    scene.write("worker.py", WORKER.replace("STOPPING", "600"))
    parent = scene.start()
    worker = scene.pid("worker")
    begun = time.monotonic()
    scene.signal(signal.SIGTERM)
    assert parent.wait(20) == 0
    assert time.monotonic() - begun >= 1.0
    assert not alive(worker)
    assert any(message.startswith("EXTEND_TIMEOUT_USEC=") for message in scene.receive_within(0.2))


def test_a_stopped_child_is_killed_at_its_deadline(scene: Scene) -> None:
    parent = scene.start()
    os.kill(scene.pid("listener"), signal.SIGSTOP)
    scene.signal(signal.SIGTERM)
    assert parent.wait(20) == 0
    assert not alive(scene.pid("listener"))


def test_children_die_with_a_killed_supervisor(scene: Scene) -> None:
    parent = scene.start()
    children = [scene.pid("worker"), scene.pid("listener")]
    os.kill(children[0], signal.SIGSTOP)
    parent.kill()
    parent.wait(20)
    until(lambda: not any(alive(pid) for pid in children))


def test_a_child_that_cannot_start_ends_the_service(scene: Scene) -> None:
    scene.write("worker.refuses", "")
    parent = scene.start(ready=False)
    assert parent.wait(20) == os.EX_CONFIG
    scene.receive("STOPPING=1\nSTATUS=worker cannot start")


def test_a_missing_program_ends_the_service(scene: Scene) -> None:
    text = PARENT.replace(
        'child("worker", stop_seconds=1.0, waits_for_probes=patience > 0)', 'Role("worker", ["/nonexistent/worker"])'
    )
    done = subprocess.run([sys.executable, "-c", text, str(scene.folder)], env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=60)
    assert done.returncode == os.EX_CONFIG


def test_restarts_of_a_dying_child_back_off(scene: Scene) -> None:
    scene.write("worker.py", "import sys, time\nopen(sys.argv[1] + '/starts', 'a').write(f'{time.monotonic()}\\n')\n")
    scene.start(ready=False)
    until(lambda: scene.has("starts") and len((scene.folder / "starts").read_text().splitlines()) >= 5)
    starts = [float(line) for line in (scene.folder / "starts").read_text().splitlines()]
    assert starts[1] - starts[0] >= 0.05
    assert starts[4] - starts[3] >= 0.2
