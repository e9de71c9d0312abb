"""systemd's side of sd_notify(3), for a daemon started by a test."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self


class Notified:
    """Receives the notifications of a service from its start on; a context manager."""

    def __init__(self, path: Path) -> None:
        self.environment = {"NOTIFY_SOCKET": str(path)}
        self._path, self._ready_at = path, 0.0
        self._ready = threading.Event()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._listening = threading.Thread(target=self._listen, daemon=True)

    def __enter__(self) -> Self:
        self._socket.bind(str(self._path))
        self._listening.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
            last.sendto(b"", str(self._path))
        self._listening.join()
        self._socket.close()

    def ready(self, seconds: float) -> float:
        """Wait for READY=1; return its time by time.monotonic()."""
        assert self._ready.wait(seconds), f"not ready within {seconds:.0f} s"
        return self._ready_at

    def _listen(self) -> None:
        while message := self._socket.recv(4096).decode():
            if "READY=1" in message.splitlines() and not self._ready.is_set():
                self._ready_at = time.monotonic()
                self._ready.set()
