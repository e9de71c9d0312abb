"""Processes that decode, each driven by a thread of its own here: a codec that crashes or hangs costs one film.

The films of a batch are decoded side by side, and those of the next while the encoder works on this one.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import structlog

from adapters.ipc.decoded_image import DecodedImage, DecoderTransform, HostTransform
from adapters.ipc.shared_frame import SharedFrame
from pipeline.domain import Image, StoredInstance
from pipeline.errors import OutOfResources, PixelsUnreadable
from pipeline.ports.images import InputTransform, ModelInput

START_SECONDS = 60.0
"""For a process to import what it needs, on a machine that is busy."""
MAX_ATTEMPTS = 2
"""A decoder may be ended by what is not the film's fault, such as want of memory. One that hangs is not tried again."""
READ_AHEAD_LIMIT = 32
"""Films that are decoded before anybody asks for them: 200 KB each, as an encoder sees them, or whole ones on a GPU."""
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",  # films are what is done side by side, not the rows of one
    "OPENBLAS_NUM_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),  # mallopt(3): the memory of one film serves the next, or each is faulted in anew
    "MALLOC_TRIM_THRESHOLD_": str(256 << 20),
}

log = structlog.get_logger("radclipd.decode")


@dataclass(slots=True)
class _Decoder:
    """One process, its connection, and the memory that its images come by."""

    process: subprocess.Popen[bytes]
    connection: Connection
    memory_fd: int

    @classmethod
    def start(cls, folder: Path) -> _Decoder:
        """Start one and wait until it is ready. OutOfResources where it does not come up."""
        ours, theirs = socket.socketpair()
        memory = os.memfd_create("radclipd-film")
        handed = (theirs.fileno(), memory)
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "adapters.app.decode_worker", *map(str, (*handed, os.getpid())), str(folder)],
            env={**os.environ, **ENVIRONMENT, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            stdin=subprocess.DEVNULL,
            pass_fds=handed,
            process_group=0,
        )
        theirs.close()
        decoder = cls(process, Connection(ours.detach()), memory)
        if decoder.wait_for_answer(START_SECONDS) is not None:
            decoder.kill()
            raise OutOfResources("a decoding process does not start", hint="is memory short? its own message is in the log")
        return decoder

    def wait_for_answer(self, seconds: float) -> object:
        """Return the next answer, or a _Gone where none comes."""
        try:
            if self.connection.poll(seconds):
                return self.connection.recv()
        except (EOFError, OSError):
            return _DecoderLoss(_describe_exit(self.process.wait()))
        return _DecoderLoss(f"gave no answer in {seconds:.0f} s", timed_out=True)

    def kill(self) -> None:
        """Kill it, whatever it does, and give everything back."""
        self.process.kill()
        self.process.wait()
        self.connection.close()
        os.close(self.memory_fd)


@dataclass(frozen=True, slots=True)
class _DecoderLoss:
    reason: str
    timed_out: bool = False


def _describe_exit(status: int) -> str:
    return f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"


class DecodePool:
    """ports.ImageReader in other processes, which are started when the first film is asked for."""

    def __init__(self, folder: Path, *, processes: int, timeout_seconds: float, read_ahead_limit: int = READ_AHEAD_LIMIT) -> None:
        """`folder`: of the image store. `seconds`: a film that takes longer cannot be read."""
        self._folder, self._seconds, self._ahead = folder, timeout_seconds, read_ahead_limit
        self._threads = ThreadPoolExecutor(processes, thread_name_prefix="decode")
        self._processes = processes
        self._own = threading.local()
        self._lock = threading.Lock()
        self._decoders: list[_Decoder] = []

    def start(self) -> None:
        """Start the processes in the background."""
        gathered = threading.Barrier(self._processes)

        def come_up() -> None:
            try:
                self._get_decoder()
            finally:
                gathered.wait(2 * START_SECONDS)  # or one thread would take every turn

        for _ in range(self._processes):
            self._threads.submit(come_up)

    def read(self, instance: StoredInstance) -> Image:
        image: Image = self._threads.submit(self._decode_instance, instance, HostTransform()).result()
        return image

    def read_ahead(self, instances: Sequence[StoredInstance], transform: InputTransform) -> Iterator[ModelInput | PixelsUnreadable]:
        left, begun = iter(instances), deque[Future[ModelInput]]()
        try:
            while True:
                while len(begun) < self._ahead and (instance := next(left, None)) is not None:
                    begun.append(self._threads.submit(self._decode_instance, instance, transform))
                if not begun:
                    return
                yield _await_result(begun.popleft())
        finally:
            for future in begun:  # whoever asked has had enough
                future.cancel()

    def close(self) -> None:
        """End the processes; a film in hand is not waited for."""
        with self._lock:
            for decoder in self._decoders:
                decoder.process.kill()
        self._threads.shutdown(wait=True, cancel_futures=True)
        for decoder in self._decoders:
            decoder.kill()
        self._decoders.clear()

    def _get_decoder(self) -> _Decoder:
        """Return this thread's process."""
        found: _Decoder | None = getattr(self._own, "decoder", None)
        if found is None:
            found = self._own.decoder = _Decoder.start(self._folder)
            with self._lock:
                self._decoders.append(found)
        return found

    def _decode_instance(self, instance: StoredInstance, transform: InputTransform) -> ModelInput:
        tries, how = MAX_ATTEMPTS, ""
        while tries:
            decoder = self._get_decoder()
            answer = self._request_decoding(decoder, instance, transform.decoder_transform)
            if not isinstance(answer, _DecoderLoss):
                return transform.to_device(_read_answer(decoder, answer))
            self._discard_decoder(decoder)
            tries, how = (0 if answer.timed_out else tries - 1), answer.reason
            log.error("decoder lost", instance=instance.header.sop_instance_uid, how=how)
        raise PixelsUnreadable(
            f"instance {instance.header.sop_instance_uid}: the process that decoded it {how}",
            hint="most often a damaged film that a codec does not survive: let the sender send it again, or uncompressed",
        )

    def _request_decoding(self, decoder: _Decoder, instance: StoredInstance, transform: DecoderTransform) -> object:
        try:
            decoder.connection.send((instance, transform))
        except OSError:  # it ended between two films
            return _DecoderLoss(_describe_exit(decoder.process.wait()))
        return decoder.wait_for_answer(self._seconds)

    def _discard_decoder(self, decoder: _Decoder) -> None:
        """The next film of this thread starts another process."""
        self._own.decoder = None
        with self._lock:
            self._decoders.remove(decoder)
        decoder.kill()


def _read_answer(decoder: _Decoder, answer: object) -> DecodedImage:
    """Return what lies in its memory, or raise why there is nothing."""
    if isinstance(answer, SharedFrame):
        return answer.read(decoder.memory_fd)
    assert isinstance(answer, tuple)
    raise PixelsUnreadable(answer[0], hint=answer[1])


def _await_result(future: Future[ModelInput]) -> ModelInput | PixelsUnreadable:
    try:
        return future.result()
    except PixelsUnreadable as error:
        return error
