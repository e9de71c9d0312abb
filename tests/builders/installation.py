"""Installation in a temporary folder: real configuration, real CLI in subprocesses, a tiny model, an embedded archive."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset

from adapters.demo.embedded_archive import EmbeddedArchive
from adapters.dicom.sr.document import SR_CLASS_UIDS
from tests.builders import tiny
from tests.builders.dicom_files import file_of

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Installation:
    """Folder, configuration and CLI of one radclipd."""

    def __init__(self, folder: Path, url: str = "", **sections: dict[str, Any]) -> None:
        self.folder = folder
        self.port, self.archive_port = free_port(), free_port()
        self.log = folder / "log"
        settings: dict[str, dict[str, Any]] = {
            "listener": {"host": "127.0.0.1", "port": self.port, "drain_seconds": 5},
            "archive": {"port": self.archive_port, "timeout_seconds": 5},
            "storage": {"directory": str(folder / "images"), "min_free": "1MiB"},
            "catalog": {"url": url or f"sqlite:///{folder / 'catalog.db'}"},
            "study": {"stable_age_seconds": 0.3},
            "model": {"directory": str(folder / "models")},
            "activation_cache": {"directory": str(folder / "activations"), "max_size": "64MiB"},
            "score": {"threads": 1},
            "report": {"silent_share": 0.0},  # a test knows which of its studies are reported
            "work": {"poll_seconds": 0.1, "lease_seconds": 5, "circuit_open_seconds": 0.5, "retry_base_seconds": 0.2},
            "log": {"format": "json", "level": "info"},
        }
        for name, keys in sections.items():
            settings[name] = settings.get(name, {}) | keys
        self.url = settings["catalog"]["url"]
        lines = [f"[{name}]\n" + "".join(f"{k} = {json.dumps(v)}\n" for k, v in keys.items()) for name, keys in settings.items()]
        self.config = folder / "radclipd.toml"
        self.config.write_text("\n".join(lines))

    def run(
        self, *arguments: str, check: bool = True, timeout: float = 120, stdin: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run one verb to its end."""
        return subprocess.run(
            [sys.executable, "-m", "adapters.cli", "--config", str(self.config), *arguments],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=check,
            timeout=timeout,
            input=stdin,
        )

    def set_up(self) -> None:
        """Create the schema and a serving, tiny, untrained model."""
        self.run("db", "upgrade")
        config = tiny.config_file(self.folder)
        self.run("model", "untrained", "--architecture", str(config), "--seed", "1")

    def copy_of(self, template: Installation) -> None:
        """Copy schema and model from another installation."""
        shutil.copytree(template.folder / "models", self.folder / "models")
        shutil.copy(template.folder / "catalog.db", self.folder / "catalog.db")

    def rows(self, sql: str) -> list[dict[str, Any]]:
        """Query the results database by `radclipd query`."""
        found: list[dict[str, Any]] = json.loads(self.run("query", sql, "--json").stdout)
        return found

    def start(self, *verb: str, environment: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        """Start a long-running verb with additional environment variables; its output is appended to `log`."""
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "adapters.cli", "--config", str(self.config), *verb],
                cwd=ROOT,
                env={**os.environ, **(environment or {})},
                stdout=log,
                stderr=log,
            )

    @contextmanager
    def running(self, *verb: str, environment: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
        """Run `radclipd run` (or another verb) during the block; SIGTERM must then end it."""
        process = self.start(*(verb or ("run",)), environment=environment)
        try:
            wait_for(lambda: process.poll() is not None or self.listens(), 60, self.read_log)
            assert process.poll() is None, self.read_log()
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            process.wait(60)

    def listens(self) -> bool:
        """Return whether the log has the listening event: a test connection would leave a trace in the listener."""
        return '"event": "listening"' in self.read_log()

    def read_log(self) -> str:
        """Return the log."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    @contextmanager
    def archive(self) -> Iterator[EmbeddedArchive]:
        running = EmbeddedArchive(self.folder / "archive", port=self.archive_port)
        try:
            yield running
        finally:
            running.stop()

    def forward(self, archive: EmbeddedArchive, *films: Dataset) -> None:
        """Store films in the archive and forward their studies."""
        for film in films:
            archive.store(file_of(film))
        for study in {film.StudyInstanceUID for film in films}:
            archive.forward(study, host="127.0.0.1", port=self.port, ae_title="RADCLIPD")


def reports_of(archive: EmbeddedArchive, study_instance_uid: str) -> list[Path]:
    """Return the files of a study's reports in the archive, without those of their visible objects."""
    own = (path for path in archive.list_files(study_instance_uid) if path.name.startswith("2.25."))
    return [path for path in own if dcmread(path, specific_tags=["SOPClassUID"]).SOPClassUID in SR_CLASS_UIDS.values()]


def wait_for(condition: Callable[[], object], seconds: float, explain: Callable[[], str] = str) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, explain()[-4000:]
        time.sleep(0.1)


def kill(pid: int) -> None:
    """SIGKILL one process that the test started, by its id."""
    os.kill(pid, signal.SIGKILL)
