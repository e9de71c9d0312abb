"""`ports.services.InstanceComparison` in a process of its own: codecs over bytes of any origin do not run in the listener."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import structlog

from pipeline.domain import StoredFile
from pipeline.errors import OutOfResources
from pipeline.ports.services import IncomingFile

START_SECONDS = 60.0
"""Time for the process to start and import its libraries on a busy machine."""
COMPARE_SECONDS = 15.0
"""Time for one comparison; what takes longer counts as different."""
QUEUE_SECONDS = 20.0
"""Time in which it must be the turn of a comparison; then the sender is asked to send again later."""

log = structlog.get_logger("radclipd.compare")


class ComparisonProcess:
    """One comparison at a time, in a process that starts with the first and ends by itself when idle. Safe for threads."""

    def __init__(self, folder: Path) -> None:
        """`folder`: of the image store."""
        self._folder = folder
        self._lock = threading.Lock()
        self._worker: _Worker | None = None

    def describe_difference(self, stored: StoredFile, incoming: IncomingFile) -> str | None:
        """Return in words what differs; None where the incoming file is another instance, or it cannot be told.

        OutOfResources where too many comparisons wait.
        """
        if not self._lock.acquire(timeout=QUEUE_SECONDS):
            raise OutOfResources("too many instances wait to be compared with those stored", hint="the sender sends again later")
        try:
            with incoming.open() as stream:
                return self._ask_worker(self._folder / stored.key, Path(f"/proc/{os.getpid()}/fd/{stream.fileno()}"))
        finally:
            self._lock.release()

    def _ask_worker(self, stored: Path, incoming: Path) -> str | None:
        for _ in range(2):  # an idle process may have ended just now
            worker = self._worker = self._worker or _Worker.start()
            try:
                worker.connection.send((str(stored), str(incoming)))
                if worker.connection.poll(COMPARE_SECONDS):
                    is_same, text = worker.connection.recv()
                    return text if is_same else None
                log.warning("comparison ended: it took too long", seconds=COMPARE_SECONDS)
                self._end_worker()
                return None
            except (EOFError, OSError):
                self._end_worker()
        log.warning("comparison failed: its process ended")
        return None

    def _end_worker(self) -> None:
        if self._worker is not None:
            self._worker.kill()
            self._worker = None

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self._end_worker()


@dataclass(frozen=True, slots=True)
class _Worker:
    process: subprocess.Popen[bytes]
    connection: Connection

    @classmethod
    def start(cls) -> _Worker:
        """Start the process and wait until it is ready. OutOfResources where it does not start."""
        local, remote = socket.socketpair()
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "adapters.dicom.image.comparison_worker", str(remote.fileno()), str(os.getpid())],
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            stdin=subprocess.DEVNULL,
            pass_fds=(remote.fileno(),),
            process_group=0,
        )
        remote.close()
        worker = cls(process, Connection(local.detach()))
        try:
            if worker.connection.poll(START_SECONDS):
                worker.connection.recv()
                return worker
        except (EOFError, OSError):
            pass
        worker.kill()
        raise OutOfResources("the comparing process does not start", hint="is memory short? its own message is in the log")

    def kill(self) -> None:
        """Kill the process and release its resources."""
        self.process.kill()
        self.process.wait()
        self.connection.close()
