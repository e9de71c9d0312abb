"""`ports.services.InstanceComparison` in a process of its own: codecs over bytes of any origin do not run in the listener."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.reduction import send_handle
from pathlib import Path
from typing import BinaryIO

import structlog

from adapters.ipc.worker_process import WorkerProcess
from pipeline.domain import InstanceDifference, StoredFile
from pipeline.errors import OutOfResources
from pipeline.ports.services import IncomingFile

MEMORY_BYTES = 4 << 30
"""Address space of the process: two files of the largest size that it reads, and their images."""
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
        self._worker: WorkerProcess | None = None

    def compare(self, stored: StoredFile, incoming: IncomingFile) -> InstanceDifference | None:
        """Return what differs; None where the incoming file is another instance, or it cannot be told.

        OutOfResources where too many comparisons wait.
        """
        with self._wait_for_turn(), incoming.open() as stream:
            answer = self._ask_worker(self._folder / stored.key, stream)
        return answer if isinstance(answer, InstanceDifference) else None

    def digest(self, file: StoredFile | IncomingFile) -> str:
        """Return the digest of the pixels; "" where it cannot be told. OutOfResources as `compare`."""
        with self._wait_for_turn():
            if isinstance(file, StoredFile):
                answer = self._ask_worker(self._folder / file.key)
            else:
                with file.open() as stream:
                    answer = self._ask_worker(None, stream)
        return answer if isinstance(answer, str) else ""

    @contextmanager
    def _wait_for_turn(self) -> Iterator[None]:
        if not self._lock.acquire(timeout=QUEUE_SECONDS):
            raise OutOfResources("too many instances wait to be compared with those stored", hint="the sender sends again later")
        try:
            yield
        finally:
            self._lock.release()

    def _ask_worker(self, stored: Path | None, incoming: BinaryIO | None = None) -> InstanceDifference | str | None:
        """Have two files compared, or the one that is given digested."""
        # The descriptor, and no path in /proc: a process that was root's has none that its own user may open.
        for _ in range(2):  # an idle process may have ended just now
            worker = self._worker = self._worker or WorkerProcess.start(
                "adapters.dicom.image.comparison_worker", memory_bytes=MEMORY_BYTES, environment={"OPENBLAS_NUM_THREADS": "1"}
            )
            try:
                worker.connection.send((stored and str(stored), incoming is not None))
                if incoming is not None:
                    send_handle(worker.connection, incoming.fileno(), worker.process.pid)
                if worker.connection.poll(COMPARE_SECONDS):
                    answer: InstanceDifference | str | None = worker.connection.recv()
                    return answer
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
