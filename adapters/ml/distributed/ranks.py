"""The fits of a training round on several devices: a rank process per device, started by torchrun, controlled by the learn worker.

Each fit of a cross-validation fold is made by one rank, exactly as on one device. The last fit, on all images, is data-parallel
over all ranks. The worker permits each step of a rank, so that training pauses for arriving studies. Ranks send results to the
worker and write no files; when any process ends, the others end too.
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
"""For the ranks to import and load, on a busy machine."""
POLL_SECONDS = 1.0
"""Longest wait for messages between two calls of the progress callback, which may stop the round."""
LOSS_SECONDS = 2.0
"""Time for the losses that follow from one loss."""
GONE = "gone without a word"
"""Reason of a rank whose process has ended."""
STOP_TIMEOUT_SECONDS = 30.0
"""For idle or killed ranks to end."""
RANK_ENVIRONMENT = {
    "GLOO_SOCKET_IFNAME": "lo",  # ranks of one host use the loopback
    "NCCL_SOCKET_IFNAME": "lo",
    "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",  # else torchrun opens a port on all interfaces
}

_log = structlog.get_logger("radclipd.ml")


def choose_devices(device: str, wanted: Literal["auto"] | int) -> list[torch.device]:
    """Return the training devices. `device`: [model] device. `wanted`: "auto" is every visible GPU unless `device` names one.

    ConfigurationError for missing devices.
    """
    first = choose_device(device)
    available = torch.cuda.device_count() if first.type == "cuda" and first.index is None else 1
    count = available if wanted == "auto" else wanted
    if count == 1 or first.type == "cpu":
        return [first] * count
    if count > available:
        found = "names one GPU" if first.index is not None else f"finds {available} of them"
        raise ConfigurationError(
            f'[learn] devices is {count}, and [model] device = "{device}" {found}',
            hint='[learn] devices = "auto" takes what is there; [model] device = "cuda" means every visible GPU',
        )
    return [torch.device("cuda", number) for number in range(count)]


@dataclass(slots=True, eq=False)
class _RankConnection:
    """One rank. `fit_number`: the fit that it makes; `steps_done`: steps of this fit."""

    number: int
    process: int
    device: torch.device
    channel: Channel
    fit_number: int | None = None
    steps_done: int = 0

    def __str__(self) -> str:
        return f"rank {self.number} ({self.device})"

    def receive_message(self) -> tuple[MessageFields, NamedArrays]:
        """Return the next message; a failure message where the channel is closed."""
        try:
            return self.channel.receive()
        except ChannelClosed:
            return {"failed": GONE}, {}

    def receive_failure(self) -> MessageFields:
        """Return the failure message of a rank whose channel cannot be written to."""
        while "failed" not in (message := self.receive_message()[0]):
            continue
        return message


@dataclass(slots=True)
class _FitBatch:
    """Fits of one call of `run_fits`, and their progress."""

    orders: Sequence[FitSpec]
    data_parallel: bool
    waiting: deque[int] = field(init=False)
    results: dict[int, FitResult] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.waiting = deque(range(len(self.orders)))


class RankPool:
    """A context manager: starts the ranks on entry and ends them on exit."""

    def __init__(self, devices: Sequence[torch.device], base: Path, *, sha256: str, threads: int = 0) -> None:
        """`base`: folder of the base; `sha256`: of its weights. `threads`: of each rank; 0: an equal share of the cores."""
        self._devices = devices
        threads = threads or max(1, (os.cpu_count() or 1) // len(devices))
        self._settings = RankSettings(base=str(base), sha256=sha256, devices=tuple(map(str, devices)), threads=threads)
        self._ranks: list[_RankConnection] = []
        self._selector = selectors.DefaultSelector()
        self._lost: dict[_RankConnection, str] = {}  # with the reason

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            try:
                folder = Path(stack.enter_context(TemporaryDirectory(prefix="radclipd-")))
                self._settings.write(folder)
                self._listener = stack.enter_context(closing(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)))
                self._listener.bind(str(folder / SOCKET_NAME))
            except OSError as error:
                message = f"no folder for learning on {len(self._devices)} devices: {error.strerror or error}"
                raise OutOfResources(message, hint="make room in /tmp, or set TMPDIR to a folder with a short name") from error
            self._listener.listen(len(self._devices))
            self._launcher = self._launch_torchrun(folder)
            self._resources = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._resources:
            if error is not None or not self._ranks:
                self._launcher.kill()  # its death kills the ranks
            self._selector.close()
            for rank in self._ranks:
                rank.channel.shutdown_and_wait(STOP_TIMEOUT_SECONDS)
            try:
                self._launcher.wait(STOP_TIMEOUT_SECONDS)
            except subprocess.TimeoutExpired:
                self._launcher.kill()
                self._launcher.wait()

    def _launch_torchrun(self, folder: Path) -> subprocess.Popen[bytes]:
        environment = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "TMPDIR": str(folder)}
        environment["OMP_NUM_THREADS"] = str(self._settings.threads)
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
            env={**os.environ, **RANK_ENVIRONMENT, **environment},
            stdin=subprocess.DEVNULL,
            process_group=0,
        )

    def run_fits(self, fitting: FitContext, orders: Sequence[FitSpec], on_steps: OnSteps) -> Iterator[FitResult]:
        """Implements models.training.fold_fits.RunFits for one fitting. TransientError where a rank is lost.

        Each rank reads the encoder from the base's folder; the first call sends the activations.
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
        """Wait until every rank has connected."""
        self._listener.settimeout(POLL_SECONDS)
        started_at, connected = time.monotonic(), list[_RankConnection]()
        while len(connected) < len(self._devices):
            on_steps(0)
            if self._launcher.poll() is not None or time.monotonic() - started_at > START_TIMEOUT_SECONDS:
                raise self._build_rank_error("the ranks did not start")
            try:
                channel = Channel(self._listener.accept()[0])
                message, _ = channel.receive()
            except (TimeoutError, ChannelClosed):
                continue
            number = message["rank"]
            connected.append(_RankConnection(number, message["process"], self._devices[number], channel))
        self._ranks = sorted(connected, key=lambda rank: rank.number)
        for rank in self._ranks:
            self._selector.register(rank.channel, selectors.EVENT_READ, rank)

    def _send_activations(self, fitting: FitContext) -> None:
        """Send activations, labels and their weights to every rank, in shared memory."""
        arrays = {"activations": fitting.activations.numpy(), "labels": fitting.labels}
        weights = {} if fitting.weights is None else {"weights": fitting.weights}
        try:
            shared = SharedArrays.from_arrays(arrays | weights)
        except OSError as error:
            message = f"no memory to share {len(fitting.labels)} labelled images between {len(self._devices)} devices"
            raise OutOfResources(message, hint="[learn] devices = 1 needs less; free memory") from error
        with closing(shared):
            for rank in self._ranks:
                self._send_message(rank, {"recipe": fitting.recipe.card, "seed": fitting.seed}, shared)

    def _has_enough_images(self, fitting: FitContext, order: FitSpec) -> bool:
        """Return whether each batch has an image for every rank."""
        return min(fitting.recipe.batch, len(learnable_rows(fitting.labels[order.rows]))) >= len(self._ranks)

    def _send_next_order(self, rank: _RankConnection, batch: _FitBatch) -> None:
        """Order the next waiting fit from a rank, or its part of the data-parallel fit."""
        rank.fit_number, rank.steps_done = None, 0
        if batch.data_parallel:
            rank.fit_number = 0
        elif batch.waiting:
            rank.fit_number = batch.waiting.popleft()
        if rank.fit_number is None:
            return
        order = batch.orders[rank.fit_number]
        with closing(SharedArrays.from_arrays({"rows": order.rows, **to_arrays(order.head.tensors)})) as shared:
            self._send_message(rank, {"steps": order.steps, "data_parallel": batch.data_parallel}, shared)

    def _process_messages(self, batch: _FitBatch, on_steps: OnSteps) -> None:
        """Receive messages, report progress, then permit the next steps."""
        waiting = list[_RankConnection]()
        for key, _ in self._selector.select(POLL_SECONDS):
            rank: _RankConnection = key.data
            message, arrays = rank.receive_message()
            if "failed" in message:
                self._note_loss(rank, message)
            elif "result" in message:
                assert rank.fit_number is not None
                batch.results[rank.fit_number] = FitResult.from_tensors(to_tensors(arrays), message["result"])
                if not batch.data_parallel:
                    self._send_next_order(rank, batch)
            else:
                rank.steps_done = message["done"]
                waiting.append(rank)
        on_steps(self._count_steps(batch))
        if self._lost:
            raise self._build_loss_error()
        for rank in waiting:
            self._send_message(rank, {"go": True})

    def _count_steps(self, batch: _FitBatch) -> int:
        """Return the number of finished steps of the batch. Rank 0 reports a data-parallel fit."""
        reporting = self._ranks[:1] if batch.data_parallel else self._ranks
        under_way = sum(rank.steps_done for rank in reporting if rank.fit_number not in batch.results)
        return under_way + sum(batch.orders[number].steps for number in batch.results)

    def _send_message(self, rank: _RankConnection, message: MessageFields, arrays: SharedArrays | None = None) -> None:
        try:
            rank.channel.send(message, arrays)
        except ChannelClosed:
            self._note_loss(rank, rank.receive_failure())
            raise self._build_loss_error() from None

    def _build_loss_error(self) -> TransientError:
        """Return the error of the lost ranks, those first that are gone, after a moment for the losses that follow from one.

        A rank that is gone breaks the collective operations of the others, and torchrun ends them: any loss may be noticed first.
        """
        ends_at = time.monotonic() + LOSS_SECONDS
        while len(self._lost) < len(self._ranks) and (left := ends_at - time.monotonic()) > 0:
            for key, _ in self._selector.select(left):
                rank: _RankConnection = key.data
                message = rank.receive_message()[0]
                if "failed" in message:
                    self._note_loss(rank, message)
        ordered = sorted(self._lost.items(), key=lambda item: (item[1] != GONE, item[0].number))
        return self._build_rank_error("; ".join(f"{rank}: {reason}" for rank, reason in ordered))

    def _note_loss(self, rank: _RankConnection, message: MessageFields) -> None:
        """Log a lost rank, and read no more from it."""
        _log.error("rank lost", rank=rank.number, device=str(rank.device), process=rank.process, **message)
        self._selector.unregister(rank.channel)
        self._lost[rank] = message["failed"]

    def _build_rank_error(self, reason: str) -> TransientError:
        return TransientError(
            f"learning on {len(self._devices)} devices: {reason}",
            hint="see the log; [learn] devices = 1 trains on one device, which [model] device chooses",
        )
