"""The score worker is ready while its encoder is still being loaded, and loads it though no job waits."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from tests.acceptance.installation import Installation, wait_for


def test_ready_does_not_wait_for_the_encoder(template: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Installation(tmp_path)
    place.copy_of(template)
    slow = tmp_path / "sitecustomize.py"  # python imports it first: here it makes reading any tensor file slow
    slow.write_text(
        "import time, safetensors.torch as s\nload = s.load_file\ns.load_file = lambda path: time.sleep(8) or load(path)\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(60)
        worker = place.start("work", "score")
        try:
            while b"READY=1" not in systemd.recv(4096):
                pass
            assert "model loaded" not in place.told()
            wait_for(lambda: "model loaded" in place.told(), 60, place.told)
        finally:
            worker.terminate()
            assert worker.wait(60) == 0
