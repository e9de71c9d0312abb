"""`radclipd demo`, the real verb, with a tiny encoder: it ends well, badly, or by Ctrl-C, and leaves nothing running."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from adapters.hospital import orthanc
from tests import peers
from tests.models import tiny

ROOT = Path(__file__).parents[2]
OK = re.compile(r"^DEMO OK studies=(\d+) reports=(\d+) seconds=\d+$")


class Telling:
    """A demonstration under way: its lines so far."""

    def __init__(self, folder: Path, *words: str) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder / "demo"
        encoder = tiny.config_file(folder)
        command = [sys.executable, "-m", "adapters.cli", "demo", "--folder", str(self.folder), "--architecture", str(encoder)]
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [*command, *words],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"PYTHONUNBUFFERED": "1", "PYTHONPATH": str(ROOT)},
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout:
            self.lines += (line.rstrip() for line in self.process.stdout)

    def until(self, words: str, patience: float = 60) -> None:
        deadline = time.monotonic() + patience
        while not any(words in line for line in self.lines):
            assert time.monotonic() < deadline, "\n".join(self.lines)
            assert self.process.poll() is None, "\n".join(self.lines)
            time.sleep(0.05)

    def end(self) -> tuple[int, str]:
        """Wait for the end; return the exit status and the last line."""
        code = self.process.wait(120)
        self._reader.join(10)
        return code, self.lines[-1]

    def still_running(self) -> list[str]:
        """Command lines of processes that name the demonstration's folder."""
        found = []
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if str(self.folder) in words:
                found.append(words)
        return found


@pytest.mark.orthanc
def test_films_travel_from_orthanc_come_back_as_reports_and_are_held_until_ctrl_c(tmp_path: Path) -> None:
    if orthanc.program() is None:
        peers.absent("Orthanc is not installed (Debian package orthanc)")
    told = Telling(tmp_path, "--studies", "5", "--hold")
    told.until("Ctrl-C ends it", patience=120)
    assert told.still_running()
    told.process.send_signal(signal.SIGINT)
    code, last = told.end()
    text = "\n".join(told.lines)
    assert code == 0, text
    assert OK.match(last)
    assert OK.match(last).groups() == ("5", "4")  # type: ignore[union-attr]  # matched above
    assert "Orthanc, AE title ORTHANC" in text
    assert "UNTRAINED" in text
    assert "study 5: ignored (not the chest (1))" in text
    assert "Comprehensive 3D SR" in text
    assert "pleural_thickening" in text
    assert told.still_running() == []


def test_pictures_of_a_folder_go_by_the_embedded_archive(tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(2):
        grey = np.random.default_rng(number).integers(0, 255, (80, 80), dtype=np.uint8)
        Image.fromarray(grey).save(pictures / f"0000000{number}_000.png")
    (pictures / "notes.txt").write_text("no film")
    told = Telling(tmp_path, "--embedded", "--images", str(pictures))
    code, last = told.end()
    assert code == 0, "\n".join(told.lines)
    assert OK.match(last).groups() == ("2", "2")  # type: ignore[union-attr]  # else the test fails here
    assert "EMBEDDED" in told.lines[1]
    assert any("left out: notes.txt" in line for line in told.lines)
    assert told.still_running() == []


def test_interrupted_it_cleans_up(tmp_path: Path) -> None:
    told = Telling(tmp_path, "--embedded", "--studies", "3")
    told.until("The films go to the archive")
    told.process.send_signal(signal.SIGTERM)
    code, last = told.end()
    assert (code, last) == (1, "DEMO FAILED interrupted")
    assert told.still_running() == []


def test_a_daemon_that_dies_fails_the_demo_and_shows_its_log(tmp_path: Path) -> None:
    told = Telling(tmp_path, "--embedded", "--studies", "9")
    told.until("Patients are X-rayed")
    pid = next(re.search(r"process (\d+)", line) for line in told.lines if "process " in line)
    assert pid is not None
    os.kill(int(pid.group(1)), signal.SIGKILL)
    code, last = told.end()
    assert code == 1
    assert last.startswith("DEMO FAILED ")
    assert any("log of the daemon" in line for line in told.lines)
    assert told.still_running() == []


def test_a_verb_that_fails_fails_the_demo(tmp_path: Path) -> None:
    told = Telling(tmp_path, "--embedded", "--architecture", "ViT-none")
    code, last = told.end()
    assert code == 1
    assert last.startswith("DEMO FAILED radclipd model untrained")
    assert told.still_running() == []


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "mine").write_text("precious")
    told = Telling(tmp_path)
    assert told.end()[0] == 1
    assert "hint: " in told.lines[-1]
    assert (tmp_path / "demo" / "mine").read_text() == "precious"
