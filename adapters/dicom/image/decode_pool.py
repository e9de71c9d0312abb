"""A pool of decoder processes, each driven by a thread of this process: a codec that crashes or hangs costs one instance.

The instances of a batch are decoded in parallel, and those of the next batch while the encoder works on this one.
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

from adapters.ipc.decoded_image import DecodedImage, DecodeFailure, DecoderTransform, HostTransform
from adapters.ipc.shared_arrays import create_memory
from adapters.ipc.shared_frame import SharedFrame
from pipeline.domain import Image, StoredInstance
from pipeline.errors import OutOfResources, PixelsUnreadable
from pipeline.ports.images import InputTransform, ModelInput

START_SECONDS = 60.0
"""Time for a decoder process to start and import its libraries on a busy machine."""
MAX_ATTEMPTS = 2
"""A decoder may die of causes outside the instance, such as lack of memory. A decoder that hangs is not tried again."""
MEMORY_BYTES = 2 << 30
"""Address space of a decoder process: 200 MB of programs, and several times the largest image that is read."""
READ_AHEAD_LIMIT = 32
"""Images decoded in advance: 200 KB each as model input on a CPU, full resolution where a GPU resizes them."""
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",  # images are decoded in parallel, not the rows of one image
    "OPENBLAS_NUM_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),  # mallopt(3): reuse the memory of one image for the next, without new page faults
    "MALLOC_TRIM_THRESHOLD_": str(256 << 20),
}

log = structlog.get_logger("radclipd.decode")


@dataclass(slots=True)
class _Decoder:
    """One decoder process, its connection, and the memory file through which its images come."""

    process: subprocess.Popen[bytes]
    connection: Connection
    memory_fd: int

    @classmethod
    def start(cls, folder: Path, memory_bytes: int) -> _Decoder:
        """Start a process and wait until it is ready. OutOfResources where it does not start."""
        local, remote = socket.socketpair()
        memory = create_memory("image")
        inherited = (remote.fileno(), memory)
        process = subprocess.Popen(
            [
                sys.executable,
                "-P",
                "-m",
                "adapters.app.decode_worker",
                *map(str, (*inherited, os.getpid(), memory_bytes)),
                str(folder),
            ],
            env={**os.environ, **ENVIRONMENT, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            stdin=subprocess.DEVNULL,
            pass_fds=inherited,
            process_group=0,
        )
        remote.close()
        decoder = cls(process, Connection(local.detach()), memory)
        if decoder.wait_for_answer(START_SECONDS) is not None:
            decoder.kill()
            raise OutOfResources("a decoding process does not start", hint="is memory short? its own message is in the log")
        return decoder

    def wait_for_answer(self, seconds: float) -> object:
        """Return the next answer, or a _DecoderLoss where none comes."""
        try:
            if self.connection.poll(seconds):
                return self.connection.recv()
        except (EOFError, OSError):
            return _DecoderLoss(_describe_exit(self.process.wait()))
        return _DecoderLoss(f"gave no answer in {seconds:.0f} s", timed_out=True)

    def kill(self) -> None:
        """Kill the process and release its resources."""
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
    """`ports.images.ImageReader` in other processes, started with the first instance to decode."""

    def __init__(
        self,
        folder: Path,
        *,
        processes: int,
        timeout_seconds: float,
        memory_bytes: int = MEMORY_BYTES,
        read_ahead_limit: int = READ_AHEAD_LIMIT,
    ) -> None:
        """`folder`: of the image store. An instance that takes longer than `timeout_seconds`, or whose decoder needs more address
        space than `memory_bytes`, is unreadable.
        """
        self._folder, self._timeout_seconds, self._read_ahead_limit = folder, timeout_seconds, read_ahead_limit
        self._memory_bytes = memory_bytes
        self._threads = ThreadPoolExecutor(processes, thread_name_prefix="decode")
        self._processes = processes
        self._thread_state = threading.local()
        self._lock = threading.Lock()
        self._decoders: list[_Decoder] = []

    def start(self) -> None:
        """Start the processes in the background."""
        all_started = threading.Barrier(self._processes)

        def start_decoder() -> None:
            try:
                self._get_decoder()
            finally:
                all_started.wait(2 * START_SECONDS)  # otherwise one thread would run all tasks

        for _ in range(self._processes):
            self._threads.submit(start_decoder)

    def read(self, instance: StoredInstance) -> Image:
        image: Image = self._threads.submit(self._decode_instance, instance, HostTransform()).result()
        return image

    def read_ahead(self, instances: Sequence[StoredInstance], transform: InputTransform) -> Iterator[ModelInput | PixelsUnreadable]:
        remaining, pending = iter(instances), deque[Future[ModelInput]]()
        try:
            while True:
                while len(pending) < self._read_ahead_limit and (instance := next(remaining, None)) is not None:
                    pending.append(self._threads.submit(self._decode_instance, instance, transform))
                if not pending:
                    return
                yield _await_result(pending.popleft())
        finally:
            for future in pending:  # the caller ended the iteration
                future.cancel()

    def close(self) -> None:
        """Kill the processes, also those that are decoding."""
        with self._lock:
            for decoder in self._decoders:
                decoder.process.kill()
        self._threads.shutdown(wait=True, cancel_futures=True)
        for decoder in self._decoders:
            decoder.kill()
        self._decoders.clear()

    def _get_decoder(self) -> _Decoder:
        """Return this thread's process, started where there is none."""
        decoder: _Decoder | None = getattr(self._thread_state, "decoder", None)
        if decoder is None:
            decoder = self._thread_state.decoder = _Decoder.start(self._folder, self._memory_bytes)
            with self._lock:
                self._decoders.append(decoder)
        return decoder

    def _decode_instance(self, instance: StoredInstance, transform: InputTransform) -> ModelInput:
        attempts_left, reason = MAX_ATTEMPTS, ""
        while attempts_left:
            decoder = self._get_decoder()
            answer = self._request_decoding(decoder, instance, transform.decoder_transform)
            if isinstance(answer, DecodeFailure) and answer.out_of_memory:
                self._discard_decoder(decoder)  # its memory may be in pieces
            if not isinstance(answer, _DecoderLoss):
                return transform.to_device(_read_answer(decoder, answer))
            self._discard_decoder(decoder)
            attempts_left, reason = (0 if answer.timed_out else attempts_left - 1), answer.reason
            log.error("decoder lost", instance=instance.header.sop_instance_uid, reason=reason)
        raise PixelsUnreadable(
            f"instance {instance.header.sop_instance_uid}: the process that decoded it {reason}",
            hint="most often a damaged instance that crashes a codec: let the sender send it again, or uncompressed",
        )

    def _request_decoding(self, decoder: _Decoder, instance: StoredInstance, transform: DecoderTransform) -> object:
        try:
            decoder.connection.send((instance, transform))
        except OSError:  # it died between two instances
            return _DecoderLoss(_describe_exit(decoder.process.wait()))
        return decoder.wait_for_answer(self._timeout_seconds)

    def _discard_decoder(self, decoder: _Decoder) -> None:
        """Kill the process; the next instance of this thread starts another."""
        self._thread_state.decoder = None
        with self._lock:
            self._decoders.remove(decoder)
        decoder.kill()


def _read_answer(decoder: _Decoder, answer: object) -> DecodedImage:
    """Return the image in the decoder's memory, valid until its next answer. PixelsUnreadable, or OutOfResources."""
    if isinstance(answer, SharedFrame):
        return answer.read(decoder.memory_fd)
    assert isinstance(answer, DecodeFailure)
    raise (OutOfResources if answer.may_pass else PixelsUnreadable)(answer.message, hint=answer.hint)


def _await_result(future: Future[ModelInput]) -> ModelInput | PixelsUnreadable:
    try:
        return future.result()
    except PixelsUnreadable as error:
        return error
