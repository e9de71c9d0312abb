"""radclipd as a hospital runs it: a configuration file, the real verbs, the real daemon, in a folder of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from pathlib import Path

from adapters.cli.settings import command_line
from adapters.hospital.loopback import LOOPBACK
from pipeline.errors import CannotStart, Refused

AE_TITLE = "RADCLIPD"
STOP_SECONDS = 45.0
OF_OTHERS = ("RADCLIPD_", "LISTEN_", "NOTIFY_SOCKET", "WATCHDOG_")
"""Environment that is meant for another radclipd or service, not for this one."""

CONFIGURATION = """\
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
minimum_free = "256MiB"

[catalog]
url = "sqlite:///{folder}/radclipd.db"

[study]
quiet_seconds = 2

[model]
directory = "{folder}/models"

[prefix]
directory = "{folder}/prefixes"
limit = "1GiB"

[work]
poll_seconds = 0.25

[log]
format = "json"
"""


class Installation:
    """One radclipd: `folder` holds its configuration, catalog, images, model versions and log."""

    def __init__(self, folder: Path, *, port: int, archive_ae_title: str, archive_port: int) -> None:
        self.folder, self.port = folder, port
        self.configuration, self.log = folder / "radclipd.toml", folder / "radclipd.log"
        self._process: subprocess.Popen[bytes] | None = None
        for name in ("images", "models"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        self.configuration.write_text(
            CONFIGURATION.format(
                loopback=LOOPBACK,
                port=port,
                ae_title=AE_TITLE,
                archive_ae_title=archive_ae_title,
                archive_port=archive_port,
                folder=folder,
            )
        )

    @property
    def catalog_url(self) -> str:
        """The database, for queries."""
        return f"sqlite:///{self.folder}/radclipd.db"

    @property
    def pid(self) -> int | None:
        """Process id of the daemon while it runs."""
        return self._process.pid if self._process else None

    def verb(self, *words: str) -> str:
        """Run a verb to its end; return what it printed. Refused with its own last words where it fails."""
        done = subprocess.run([*command_line(self.configuration), *words], capture_output=True, text=True, env=_environment())
        if done.returncode:
            said = (done.stderr or done.stdout).strip().splitlines()[-3:]
            raise Refused(f"radclipd {' '.join(words)} ended with {done.returncode}: {' '.join(said)}")
        return done.stdout.strip()

    def start(self) -> None:
        """Start `radclipd run`. Its listening port is open as soon as it runs; who calls earlier is refused."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*command_line(self.configuration), "run"],
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=_environment(),
                start_new_session=True,  # a Ctrl-C in the terminal is ours to handle
            )

    def require_alive(self) -> None:
        """Raise CannotStart when the daemon has ended."""
        if self._process is not None and self._process.poll() is not None:
            raise CannotStart(f"radclipd run ended with {self._process.returncode}", hint=f"see {self.log}")

    def stop(self) -> None:
        """Ask the daemon to stop and wait; kill it, and whatever it started, if it does not."""
        process, self._process = self._process, None
        if process is None:
            return
        try:
            process.terminate()
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

    def last_words(self, count: int) -> list[str]:
        """Return the last lines of the daemon's log."""
        return self.log.read_text(errors="replace").splitlines()[-count:] if self.log.exists() else []


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(OF_OTHERS)}
