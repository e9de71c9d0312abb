"""The fits of a round of learning on several devices: a rank for each, started by torchrun, and watched over by the learn worker.

The fits without a fold are dealt to the ranks, each made by one alone, exactly as on one device. The last fit, of all films, is
made by all ranks together. A rank takes its next step when the worker says so, which is how learning pauses for arrivals, and what
it has made it hands to the worker: whichever process ends, and however, nothing is half written, and the others end too.
"""

from __future__ import annotations

import os
import selectors
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Literal, Self

import structlog
import torch

from adapters.ipc.channel import Channel, ChannelClosed, MessageFields
from adapters.ipc.shared_arrays import NamedArrays, SharedArrays
from adapters.ml.distributed.orders import RankSettings, to_arrays, to_tensors
from adapters.ml.distributed.rank import SOCKET_NAME
from adapters.ml.scorer import choose_device
from models.training.batches import learnable_rows
from models.training.fold_fits import FitContext, FitResult, FitSpec, OnSteps
from pipeline.errors import ConfigurationError, OutOfResources, TransientError

START_TIMEOUT_SECONDS = 300.0
"""For the ranks to load what they need, on a machine that is busy."""
POLL_SECONDS = 1.0
"""How long the worker listens before it looks whether it was told to stop."""
STOP_TIMEOUT_SECONDS = 30.0
"""For ranks that have nothing left to do, or were killed, to end."""
RANK_ENVIRONMENT = {
    "GLOO_SOCKET_IFNAME": "lo",  # ranks of one host talk on the loopback
    "NCCL_SOCKET_IFNAME": "lo",
    "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",  # torchrun would open a port to everybody
}

_log = structlog.get_logger("radclipd.gpu")


def choose_devices(device: str, wanted: Literal["auto"] | int) -> list[torch.device]:
    """Return where learning is done. `device`: that of [model]; "auto": every visible GPU where it names none, else that device.

    ConfigurationError for devices that are not there.
    """
    first = choose_device(device)
    here = torch.cuda.device_count() if first.type == "cuda" and first.index is None else 1
    count = here if wanted == "auto" else wanted
    if count == 1 or first.type == "cpu":
        return [first] * count
    if count > here:
        found = "names one GPU" if first.index is not None else f"finds {here} of them"
        raise ConfigurationError(
            f'[learn] devices is {count}, and [model] device = "{device}" {found}',
            hint='[learn] devices = "auto" takes what is there; [model] device = "cuda" means every visible GPU',
        )
    return [torch.device("cuda", number) for number in range(count)]


@dataclass(slots=True)
class _RankConnection:
    """One rank as the worker knows it. `order`: the number of the fit that it makes; `done`: steps of it."""

    number: int
    process: int
    device: torch.device
    channel: Channel
    fit_number: int | None = None
    steps_done: int = 0

    def __str__(self) -> str:
        return f"rank {self.number} ({self.device})"

    def receive_message(self) -> tuple[MessageFields, NamedArrays]:
        """Return what it says next; that it has failed where it never says anything again."""
        try:
            return self.channel.receive()
        except ChannelClosed:
            return {"failed": "gone without a word"}, {}

    def receive_failure(self) -> MessageFields:
        """Return why it has failed, of one that hears nothing any more."""
        while "failed" not in (words := self.receive_message()[0]):
            continue
        return words


@dataclass(slots=True)
class _FitBatch:
    """Fits that were ordered at once, and how far they are."""

    orders: Sequence[FitSpec]
    data_parallel: bool
    waiting: deque[int] = field(init=False)
    results: dict[int, FitResult] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.waiting = deque(range(len(self.orders)))


class RankPool:
    """A context manager: the ranks start with it, and are gone after it."""

    def __init__(self, devices: Sequence[torch.device], base: Path, *, sha256: str, threads: int = 0) -> None:
        """`base`: the folder of the base, whose weights have this SHA-256. `threads`: of each rank on the CPU; 0: its share."""
        self._devices = devices
        threads = threads or max(1, (os.cpu_count() or 1) // len(devices))
        self._equipment = RankSettings(base=str(base), sha256=sha256, devices=tuple(map(str, devices)), threads=threads)
        self._ranks: list[_RankConnection] = []
        self._selector = selectors.DefaultSelector()

    def __enter__(self) -> Self:
        with ExitStack() as held:
            try:
                folder = Path(held.enter_context(TemporaryDirectory(prefix="radclipd-")))
                self._equipment.write(folder)
                self._door = held.enter_context(closing(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)))
                self._door.bind(str(folder / SOCKET_NAME))
            except OSError as error:
                said = f"no folder for learning on {len(self._devices)} devices: {error.strerror or error}"
                raise OutOfResources(said, hint="make room in /tmp, or set TMPDIR to a folder with a short name") from error
            self._door.listen(len(self._devices))
            self._launcher = self._launch_torchrun(folder)
            self._held = held.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._held:
            if error is not None or not self._ranks:
                self._launcher.kill()  # the ranks die of it
            self._selector.close()
            for rank in self._ranks:
                rank.channel.shutdown_and_wait(STOP_TIMEOUT_SECONDS)
            try:
                self._launcher.wait(STOP_TIMEOUT_SECONDS)
            except subprocess.TimeoutExpired:
                self._launcher.kill()
                self._launcher.wait()

    def _launch_torchrun(self, folder: Path) -> subprocess.Popen[bytes]:
        own = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "TMPDIR": str(folder)}
        own["OMP_NUM_THREADS"] = str(self._equipment.threads)
        return subprocess.Popen(
            [
                sys.executable,
                "-P",
                "-m",
                "adapters.ml.distributed.launcher",
                str(os.getpid()),
                str(folder),
                str(len(self._devices)),
            ],
            env={**os.environ, **RANK_ENVIRONMENT, **own},
            stdin=subprocess.DEVNULL,
            process_group=0,
        )

    def run_fits(self, fitting: FitContext, orders: Sequence[FitSpec], on_steps: OnSteps) -> Iterator[FitResult]:
        """Implements models.training.fold_fits.Fits, of one fitting. TransientError where a rank is lost.

        The ranks have its encoder, which is the base, themselves; the films are handed to them at the first call.
        """
        if not self._ranks:
            self._accept_ranks(on_steps)
            self._send_activations(fitting)
        batch = _FitBatch(orders, data_parallel=len(orders) == 1 and self._has_enough_images(fitting, orders[0]))
        for rank in self._ranks:
            self._send_next_order(rank, batch)
        while len(batch.results) < len(orders):
            self._process_messages(batch, on_steps)
        return iter([batch.results[number] for number in range(len(orders))])

    def _accept_ranks(self, on_steps: OnSteps) -> None:
        """Wait until every rank has called."""
        self._door.settimeout(POLL_SECONDS)
        begun, called = time.monotonic(), list[_RankConnection]()
        while len(called) < len(self._devices):
            on_steps(0)
            if self._launcher.poll() is not None or time.monotonic() - begun > START_TIMEOUT_SECONDS:
                raise self._build_rank_error("the ranks did not start")
            try:
                line = Channel(self._door.accept()[0])
                words, _ = line.receive()
            except (TimeoutError, ChannelClosed):
                continue
            called.append(_RankConnection(words["rank"], words["process"], self._devices[words["rank"]], line))
        self._ranks = sorted(called, key=lambda rank: rank.number)
        for rank in self._ranks:
            self._selector.register(rank.channel, selectors.EVENT_READ, rank)

    def _send_activations(self, fitting: FitContext) -> None:
        """Give every rank the films, in memory that all share."""
        try:
            parcel = SharedArrays.from_arrays({"activations": fitting.activations.numpy(), "labels": fitting.labels})
        except OSError as error:
            said = f"no memory to share {len(fitting.labels)} labelled films between {len(self._devices)} devices"
            raise OutOfResources(said, hint="[learn] devices = 1 needs less; free memory") from error
        with closing(parcel):
            for rank in self._ranks:
                self._send_message(rank, {"recipe": fitting.recipe.card, "seed": fitting.seed}, parcel)

    def _has_enough_images(self, fitting: FitContext, order: FitSpec) -> bool:
        """Whether there is a film of each batch for every rank."""
        return min(fitting.recipe.batch, len(learnable_rows(fitting.labels[order.rows]))) >= len(self._ranks)

    def _send_next_order(self, rank: _RankConnection, batch: _FitBatch) -> None:
        """Let a rank make the next fit that nobody makes, or the one that all make together."""
        rank.fit_number, rank.steps_done = None, 0
        if batch.data_parallel:
            rank.fit_number = 0
        elif batch.waiting:
            rank.fit_number = batch.waiting.popleft()
        if rank.fit_number is None:
            return
        order = batch.orders[rank.fit_number]
        with closing(SharedArrays.from_arrays({"rows": order.rows, **to_arrays(order.head.tensors)})) as parcel:
            self._send_message(rank, {"steps": order.steps, "together": batch.data_parallel}, parcel)

    def _process_messages(self, batch: _FitBatch, on_steps: OnSteps) -> None:
        """Hear whoever speaks, and let them go on when it is time."""
        asking, lost = list[_RankConnection](), list[str]()
        for key, _ in self._selector.select(POLL_SECONDS):
            rank: _RankConnection = key.data
            words, arrays = rank.receive_message()
            if "failed" in words:
                lost.append(_log_lost_rank(rank, words))
            elif "made" in words:
                assert rank.fit_number is not None
                batch.results[rank.fit_number] = FitResult.from_tensors(to_tensors(arrays), words["made"])
                if not batch.data_parallel:
                    self._send_next_order(rank, batch)
            else:
                rank.steps_done = words["done"]
                asking.append(rank)
        on_steps(self._count_steps(batch))
        if lost:
            raise self._build_rank_error("; ".join(lost))
        for rank in asking:
            self._send_message(rank, {"go": True})

    def _count_steps(self, batch: _FitBatch) -> int:
        """Return how many steps of the batch are done. Where all make one fit together, the first tells."""
        speaking = self._ranks[:1] if batch.data_parallel else self._ranks
        under_way = sum(rank.steps_done for rank in speaking if rank.fit_number not in batch.results)
        return under_way + sum(batch.orders[number].steps for number in batch.results)

    def _send_message(self, rank: _RankConnection, message: MessageFields, parcel: SharedArrays | None = None) -> None:
        try:
            rank.channel.send(message, parcel)
        except ChannelClosed:
            raise self._build_rank_error("; ".join(self._collect_failures(rank))) from None

    def _collect_failures(self, lost: _RankConnection) -> Iterator[str]:
        """Why ranks are lost, if one is gone. Where one fails torchrun ends the others, of whom one may be missed first."""
        yield _log_lost_rank(lost, lost.receive_failure())
        for key, _ in self._selector.select(0):
            words = {} if key.data is lost else key.data.heard()[0]
            if "failed" in words:
                yield _log_lost_rank(key.data, words)

    def _build_rank_error(self, reason: str) -> TransientError:
        return TransientError(
            f"learning on {len(self._devices)} devices: {reason}",
            hint="the log has more; [learn] devices = 1 learns on one device, and [model] device says on which",
        )


def _log_lost_rank(rank: _RankConnection, message: MessageFields) -> str:
    """Log that a rank is lost, and say it."""
    _log.error("rank lost", rank=rank.number, device=str(rank.device), process=rank.process, **message)
    return f"{rank}: {message['failed']}"
