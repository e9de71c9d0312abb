"""Installation of radclipd in a folder: a configuration file, the real verbs, the real daemon."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import time
from pathlib import Path

from adapters.app.command_line import command_line
from adapters.demo.loopback import LOOPBACK, free_ports
from pipeline.errors import FatalError, PermanentError

AE_TITLE = "RADCLIPD"
DAEMON_VERB = "run"
STOP_SECONDS = 45.0
FOREIGN_ENVIRONMENT_PREFIXES = ("RADCLIPD_", "LISTEN_", "NOTIFY_SOCKET", "WATCHDOG_")
"""Prefixes of environment variables of another radclipd or service, removed from the environment of this one."""

CONFIGURATION_TEMPLATE = """\
# Written by radclipd demo. Every key is explained in deploy/radclipd.toml.

[listener]
host = "{loopback}"
port = {port}
ae_title = "{ae_title}"
calling_ae_titles = ["{archive_ae_title}"]

[archive]
ae_title = "{archive_ae_title}"
host = "{loopback}"
port = {archive_port}

[storage]
directory = "{folder}/images"
min_free = "256MiB"

[catalog]
url = "sqlite:///{folder}/radclipd.db"

[study]
stable_age_seconds = 2

[model]
directory = "{folder}/models"

[activation_cache]
directory = "{folder}/activations"
max_size = "1GiB"

[decision]
min_reference_studies = {min_reference_studies}

[report]
silent_share = 0.0  # every study is shown

[learn]
cron = ""  # the demonstration says when
promote = "auto"  # it is nobody's patient

[work]
poll_seconds = 0.25

[web]
port = {web_port}
directory = "{folder}/web"

[log]
format = "json"
"""
DESK_USER = "demo"
PASSWORD_BYTES = 9


class DemoInstallation:
    """One installation: `folder` holds configuration, catalog, images, model versions and log."""

    def __init__(
        self, folder: Path, *, port: int, archive_ae_title: str, archive_port: int, min_reference_studies: int = 200
    ) -> None:
        self.folder, self.port = folder, port
        [self.web_port] = free_ports(1)
        self.configuration, self.log = folder / "radclipd.toml", folder / "radclipd.log"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}  # by verb
        for name in ("images", "models"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        self.configuration.write_text(
            CONFIGURATION_TEMPLATE.format(
                loopback=LOOPBACK,
                port=port,
                ae_title=AE_TITLE,
                archive_ae_title=archive_ae_title,
                archive_port=archive_port,
                folder=folder,
                min_reference_studies=min_reference_studies,
                web_port=self.web_port,
            )
        )

    @property
    def catalog_url(self) -> str:
        """URL of the database."""
        return f"sqlite:///{self.folder}/radclipd.db"

    @property
    def pid(self) -> int | None:
        """Process ID of the running daemon, None otherwise."""
        return self._processes[DAEMON_VERB].pid if DAEMON_VERB in self._processes else None

    def run_verb(self, *words: str) -> str:
        """Run a verb to its end; return its standard output. PermanentError with its last lines where it fails."""
        return self.run_verb_with_stderr(*words)[0]

    def run_verb_with_stderr(self, *words: str, stdin: str = "") -> tuple[str, str]:
        """Run a verb to its end; return its standard output and standard error. PermanentError where it fails."""
        command = [*command_line(self.configuration), *words]
        done = subprocess.run(command, capture_output=True, text=True, input=stdin, env=_build_environment())
        if done.returncode:
            last_lines = (done.stderr or done.stdout).strip().splitlines()[-3:]
            raise PermanentError(f"radclipd {' '.join(words)} ended with {done.returncode}: {' '.join(last_lines)}")
        return done.stdout.strip(), done.stderr.strip()

    def start(self) -> None:
        """Start `radclipd run`. Connections are refused until its listening port is open."""
        self._start_process(DAEMON_VERB)

    def serve_desk(self) -> tuple[str, str]:
        """Start `radclipd web` with a user who may do everything; return its address and the user's password."""
        password = secrets.token_urlsafe(PASSWORD_BYTES)
        words = ("users", "add", DESK_USER, "--role", "administrator", "--password-stdin")
        self.run_verb_with_stderr(*words, stdin=f"{password}\n")
        self._start_process("web")
        return f"http://{LOOPBACK}:{self.web_port}", password

    def start_worker(self, kind: str) -> int:
        """Start an additional worker beside those of the daemon; return its process ID."""
        return self._start_process(f"work {kind}").pid

    def _start_process(self, words: str) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            self._processes[words] = subprocess.Popen(
                [*command_line(self.configuration), *words.split()],
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=_build_environment(),
                start_new_session=True,  # only the demonstration handles Ctrl-C
            )
        return self._processes[words]

    def require_alive(self) -> None:
        """Raise FatalError where the daemon or a worker has ended."""
        for words, process in self._processes.items():
            if process.poll() is not None:
                raise FatalError(f"radclipd {words} ended with {process.returncode}", hint=f"see {self.log}")

    def stop(self) -> None:
        """Stop the daemon and the workers and wait; kill them and their children at the deadline."""
        processes, self._processes = self._processes, {}
        for process in processes.values():
            process.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        for process in processes.values():
            _wait_or_kill(process, deadline)

    def read_log_tail(self, count: int) -> list[str]:
        """Return the last lines of the daemon's log."""
        return self.log.read_text(errors="replace").splitlines()[-count:] if self.log.exists() else []


def _wait_or_kill(process: subprocess.Popen[bytes], deadline: float) -> None:
    """Wait for a terminating process, kill it at the deadline, and kill the rest of its session."""
    try:
        process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _build_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN_ENVIRONMENT_PREFIXES)}
