"""A Debian machine with a booted systemd in a container: created by debootstrap, booted by systemd-nspawn.

Three layers are built once, by `python -m tests.builders.machine` before any test, and kept in $RADCLIPD_TEST_CACHE (default
~/.cache/radclipd-tests): a bare Debian, a folder of wheels, and that Debian with the wheels installed. The machine of a test is an
overlay on the last layer with a private network: it is isolated, and its changes are discarded afterwards.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import pytest

ROOT = Path(__file__).resolve().parents[2]
CACHE = Path(os.environ.get("RADCLIPD_TEST_CACHE") or Path.home() / ".cache" / "radclipd-tests")
SUITE = "bookworm"
PACKAGES = "systemd,systemd-sysv,dbus,python3,python3-venv,iproute2"
WHEELS = "/wheels"
REBOOT_STATUS = 133
SOURCE = "/usr/src/radclipd"
VENV = "/opt/radclipd/venv"
T = TypeVar("T")


def until(attempt: Callable[[], T], *, seconds: float, what: str, explain: Callable[[], str] = str) -> T:
    """Return the first true result of `attempt`; fail with the text of `explain` at the deadline."""
    deadline = time.monotonic() + seconds
    while not (answer := attempt()):
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}\n{explain()}"
        time.sleep(0.2)
    return answer


def _once(folder: Path, build: Callable[[Path], None], *, what: str) -> Path:
    """Return the folder, built atomically and with a word of progress."""
    if not folder.exists():
        begun = time.monotonic()
        sys.stderr.write(f"machine: {what}, into {folder}\n")
        unfinished = folder.with_name(folder.name + ".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.parent.mkdir(parents=True, exist_ok=True)
        build(unfinished)
        unfinished.rename(folder)
        sys.stderr.write(f"machine: done in {time.monotonic() - begun:.0f} s\n")
    return folder


def _run(argv: Sequence[str | Path], *, seconds: float = 1200) -> None:
    subprocess.run(argv, check=True, timeout=seconds, stdin=subprocess.DEVNULL, stdout=sys.stderr)


def _requirements() -> str:
    """Return a hash of the requirements: it changes with the pins, not with radclipd's code."""
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    pins = (ROOT / "constraints.txt").read_text()
    return hashlib.sha256("\n".join([PACKAGES, pins, *wanted]).encode()).hexdigest()[:12]


def debian() -> Path:
    """Return a bare Debian with systemd and Python."""
    return _once(
        CACHE / f"{SUITE}-{hashlib.sha256(PACKAGES.encode()).hexdigest()[:8]}",
        lambda folder: _run(["debootstrap", "--variant=minbase", f"--include={PACKAGES}", SUITE, folder]),
        what=f"a bare Debian {SUITE} (2 to 5 minutes)",
    )


def wheels() -> Path:
    """Return a folder with the wheels of all requirements, built by this host's pip."""

    def build(folder: Path) -> None:
        pinned = [
            line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith(("torch==", "torchvision=="))
        ]
        pip: list[str | Path] = [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "-qq",
            "--wheel-dir",
            folder,
            "--constraint",
            ROOT / "constraints.txt",
        ]
        _run([*pip, *pinned, "hatchling", str(ROOT)])
        for own in folder.glob("radclipd-*.whl"):
            own.unlink()

    return _once(CACHE / f"wheels-{_requirements()}", build, what="wheels of all requirements (1 to 10 minutes)")


def prepared() -> Path:
    """Return the Debian with every wheel installed, but without radclipd: the downloads of deploy/install.sh."""

    def build(folder: Path) -> None:
        _run(["cp", "-a", debian(), folder])
        names = " ".join("==".join(wheel.name.split("-")[:2]) for wheel in wheels().glob("*.whl"))
        offline = f"--quiet --no-index --find-links {WHEELS}"
        inside(folder, f"python3 -m venv {VENV} && {VENV}/bin/pip install {offline} --no-deps {names}")

    return _once(_prepared_folder(), build, what="the Debian with all wheels installed (1 to 5 minutes)")


def _prepared_folder() -> Path:
    return CACHE / f"prepared-{_requirements()}"


def is_prepared() -> bool:
    """Whether `python -m tests.builders.machine` has built everything."""
    return _prepared_folder().exists()


def _nspawn(root: Path) -> list[str | Path]:
    nspawn: list[str | Path] = ["systemd-nspawn", "--quiet", "--register=no", "--private-network", f"--directory={root}"]
    nspawn += [f"--bind-ro={ROOT}:{SOURCE}", f"--bind-ro={wheels()}:{WHEELS}", "--machine=radclipd-test"]
    return nspawn if Path("/run/systemd/system").is_dir() else [*nspawn, "--keep-unit"]


def inside(root: Path, script: str) -> None:
    """Run a shell script in a machine that is not booted; its pip uses only the wheels."""
    pip = ["--setenv=PIP_NO_INDEX=1", f"--setenv=PIP_FIND_LINKS={WHEELS}", "--setenv=PIP_ROOT_USER_ACTION=ignore"]
    _run([*_nspawn(root), "--pipe", *pip, "/bin/sh", "-euc", script], seconds=600)


class Machine:
    """An overlay on `prepared()`. Commands run in it once booted."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "root"
        for part in ("root", "upper", "work"):
            (folder / part).mkdir()
        layers = f"lowerdir={prepared()},upperdir={folder / 'upper'},workdir={folder / 'work'}"
        _run(["mount", "-t", "overlay", "overlay", "-o", layers, self.root])
        self._nspawn: subprocess.Popen[bytes] | None = None
        self._console = folder / "console.log"

    def write(self, path: str, text: str) -> None:
        """Write a file of the machine."""
        target = self.root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)

    def boot(self) -> None:
        """Boot and wait until everything has started."""
        environment = {**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"}
        with self._console.open("ab") as console:
            self._nspawn = subprocess.Popen(
                [*_nspawn(self.root), "--boot"], stdin=subprocess.DEVNULL, stdout=console, stderr=console, env=environment
            )
        self.wait_for_boot()

    def wait_for_boot(self, *, unlike: int = 0) -> None:
        """Wait until the machine, or one whose first process is not `unlike`, is up."""

        def up() -> bool:
            leader = self.leader
            return leader not in (0, unlike) and self.run("systemctl is-system-running --wait", check=False) in (
                "running",
                "degraded",
            )

        until(up, seconds=90, what=f"boot; see {self._console}")

    @property
    def leader(self) -> int:
        """The process id, on this host, of the machine's systemd; 0 while there is none."""
        assert self._nspawn is not None
        assert self._nspawn.poll() is None, f"systemd-nspawn ended: {self._console.read_text(errors='replace')[-2000:]}"
        children = Path(f"/proc/{self._nspawn.pid}/task/{self._nspawn.pid}/children").read_text().split()
        names = {int(child): Path(f"/proc/{child}/comm") for child in children}
        return next((child for child, name in names.items() if name.exists() and name.read_text().strip() == "systemd"), 0)

    def run(self, script: str, *, check: bool = True, seconds: float = 120) -> str:
        """Run a shell script in the machine as root; return its standard output, stripped."""
        try:
            done = subprocess.run(
                ["nsenter", "--target", str(self.leader), "--all", "/bin/sh", "-c", script],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=seconds,
                env={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"},
            )
        except subprocess.TimeoutExpired:
            pytest.fail(f"{script}: not done within {seconds:.0f} s\n{self.journal()}")
        if check and done.returncode:
            pytest.fail(f"{script}: status {done.returncode}\n{done.stdout}\n{done.stderr}\n{self.journal()}")
        return done.stdout.strip()

    def journal(self) -> str:
        """Return the end of the daemon's journal."""
        return self.run("journalctl --no-pager --boot --lines=80 --unit='radclipd*'", check=False)

    def on_its_network(self, argv: Sequence[str | Path]) -> list[str | Path]:
        """Return a command line that runs a program of this host on the machine's network."""
        return ["nsenter", "--target", str(self.leader), "--net", *argv]

    def processes(self, *words: str) -> list[int]:
        """Return process ids, on this host, of the machine's processes whose command line has these words, in order."""
        space = Path(f"/proc/{self.leader}/ns/pid").readlink()
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if (process / "ns" / "pid").readlink() == space:
                    arguments = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
                    found += [int(process.name)] if _in_order(words, arguments) else []
            except OSError:
                continue  # the process has ended
        return found

    def reboot(self) -> None:
        """Reboot and wait until everything has started."""
        before = self.leader
        self.run("systemctl reboot", check=False)
        if "--keep-unit" in _nspawn(self.root):  # the caller of systemd-nspawn(1) must restart it
            assert self._nspawn is not None
            assert self._nspawn.wait(90) == REBOOT_STATUS
            self.boot()
        else:
            self.wait_for_boot(unlike=before)

    def end(self) -> None:
        """Power off and unmount the overlay."""
        if self._nspawn is not None and self._nspawn.poll() is None:
            self._nspawn.send_signal(signal.SIGTERM)
            try:
                self._nspawn.wait(60)
            except subprocess.TimeoutExpired:
                self._nspawn.kill()
                self._nspawn.wait(10)
        _run(["umount", "--recursive", "--lazy", self.root])


def _in_order(words: Sequence[str], arguments: Sequence[str]) -> bool:
    rest = iter(arguments)
    return all(word in rest for word in words)


if __name__ == "__main__":
    sys.stderr.write(f"machine: {prepared()} is ready\n")
