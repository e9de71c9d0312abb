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

from adapters.ipc.channel import Arrays, Gone, Line, Parcel, Words
from adapters.ml.distributed.orders import Equipment, arrays_of, tensors
from adapters.ml.distributed.rank import LINE
from adapters.ml.scorer import choose_device
from models.training.batches import of_use
from models.training.fold_fits import Fitting, Made, OnSteps, Order
from pipeline.errors import ConfigurationError, OutOfResources, TryAgain

START_SECONDS = 300.0
"""For the ranks to load what they need, on a machine that is busy."""
LOOK_SECONDS = 1.0
"""How long the worker listens before it looks whether it was told to stop."""
END_SECONDS = 30.0
"""For ranks that have nothing left to do, or were killed, to end."""
ENVIRONMENT = {
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
class _Rank:
    """One rank as the worker knows it. `order`: the number of the fit that it makes; `done`: steps of it."""

    number: int
    process: int
    device: torch.device
    line: Line
    order: int | None = None
    done: int = 0

    def __str__(self) -> str:
        return f"rank {self.number} ({self.device})"

    def heard(self) -> tuple[Words, Arrays]:
        """Return what it says next; that it has failed where it never says anything again."""
        try:
            return self.line.hear()
        except Gone:
            return {"failed": "gone without a word"}, {}

    def last_words(self) -> Words:
        """Return why it has failed, of one that hears nothing any more."""
        while "failed" not in (words := self.heard()[0]):
            continue
        return words


@dataclass(slots=True)
class _Batch:
    """Fits that were ordered at once, and how far they are."""

    orders: Sequence[Order]
    together: bool
    waiting: deque[int] = field(init=False)
    made: dict[int, Made] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.waiting = deque(range(len(self.orders)))


class Ranks:
    """A context manager: the ranks start with it, and are gone after it."""

    def __init__(self, devices: Sequence[torch.device], base: Path, *, sha256: str, threads: int = 0) -> None:
        """`base`: the folder of the base, whose weights have this SHA-256. `threads`: of each rank on the CPU; 0: its share."""
        self._devices = devices
        threads = threads or max(1, (os.cpu_count() or 1) // len(devices))
        self._equipment = Equipment(base=str(base), sha256=sha256, devices=tuple(map(str, devices)), threads=threads)
        self._ranks: list[_Rank] = []
        self._selector = selectors.DefaultSelector()

    def __enter__(self) -> Self:
        with ExitStack() as held:
            try:
                folder = Path(held.enter_context(TemporaryDirectory(prefix="radclipd-")))
                self._equipment.write(folder)
                self._door = held.enter_context(closing(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)))
                self._door.bind(str(folder / LINE))
            except OSError as error:
                said = f"no folder for learning on {len(self._devices)} devices: {error.strerror or error}"
                raise OutOfResources(said, hint="make room in /tmp, or set TMPDIR to a folder with a short name") from error
            self._door.listen(len(self._devices))
            self._launcher = self._launched(folder)
            self._held = held.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._held:
            if error is not None or not self._ranks:
                self._launcher.kill()  # the ranks die of it
            self._selector.close()
            for rank in self._ranks:
                rank.line.await_the_end(END_SECONDS)
            try:
                self._launcher.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                self._launcher.kill()
                self._launcher.wait()

    def _launched(self, folder: Path) -> subprocess.Popen[bytes]:
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
            env={**os.environ, **ENVIRONMENT, **own},
            stdin=subprocess.DEVNULL,
            process_group=0,
        )

    def fits(self, fitting: Fitting, orders: Sequence[Order], on_steps: OnSteps) -> Iterator[Made]:
        """Implements models.training.fold_fits.Fits, of one fitting. TryAgain where a rank is lost.

        The ranks have its encoder, which is the base, themselves; the films are handed to them at the first call.
        """
        if not self._ranks:
            self._gather(on_steps)
            self._hand_out(fitting)
        batch = _Batch(orders, together=len(orders) == 1 and self._enough(fitting, orders[0]))
        for rank in self._ranks:
            self._order(rank, batch)
        while len(batch.made) < len(orders):
            self._turn(batch, on_steps)
        return iter([batch.made[number] for number in range(len(orders))])

    def _gather(self, on_steps: OnSteps) -> None:
        """Wait until every rank has called."""
        self._door.settimeout(LOOK_SECONDS)
        begun, called = time.monotonic(), list[_Rank]()
        while len(called) < len(self._devices):
            on_steps(0)
            if self._launcher.poll() is not None or time.monotonic() - begun > START_SECONDS:
                raise self._lost("the ranks did not start")
            try:
                line = Line(self._door.accept()[0])
                words, _ = line.hear()
            except (TimeoutError, Gone):
                continue
            called.append(_Rank(words["rank"], words["process"], self._devices[words["rank"]], line))
        self._ranks = sorted(called, key=lambda rank: rank.number)
        for rank in self._ranks:
            self._selector.register(rank.line, selectors.EVENT_READ, rank)

    def _hand_out(self, fitting: Fitting) -> None:
        """Give every rank the films, in memory that all share."""
        try:
            parcel = Parcel.of({"activations": fitting.activations.numpy(), "labels": fitting.labels})
        except OSError as error:
            said = f"no memory to share {len(fitting.labels)} labelled films between {len(self._devices)} devices"
            raise OutOfResources(said, hint="[learn] devices = 1 needs less; free memory") from error
        with closing(parcel):
            for rank in self._ranks:
                self._tell(rank, {"recipe": fitting.recipe.card, "seed": fitting.seed}, parcel)

    def _enough(self, fitting: Fitting, order: Order) -> bool:
        """Whether there is a film of each batch for every rank."""
        return min(fitting.recipe.batch, len(of_use(fitting.labels[order.rows]))) >= len(self._ranks)

    def _order(self, rank: _Rank, batch: _Batch) -> None:
        """Let a rank make the next fit that nobody makes, or the one that all make together."""
        rank.order, rank.done = None, 0
        if batch.together:
            rank.order = 0
        elif batch.waiting:
            rank.order = batch.waiting.popleft()
        if rank.order is None:
            return
        order = batch.orders[rank.order]
        with closing(Parcel.of({"rows": order.rows, **arrays_of(order.head.tensors)})) as parcel:
            self._tell(rank, {"steps": order.steps, "together": batch.together}, parcel)

    def _turn(self, batch: _Batch, on_steps: OnSteps) -> None:
        """Hear whoever speaks, and let them go on when it is time."""
        asking, lost = list[_Rank](), list[str]()
        for key, _ in self._selector.select(LOOK_SECONDS):
            rank: _Rank = key.data
            words, arrays = rank.heard()
            if "failed" in words:
                lost.append(_told(rank, words))
            elif "made" in words:
                assert rank.order is not None
                batch.made[rank.order] = Made.from_tensors(tensors(arrays), words["made"])
                if not batch.together:
                    self._order(rank, batch)
            else:
                rank.done = words["done"]
                asking.append(rank)
        on_steps(self._steps(batch))
        if lost:
            raise self._lost("; ".join(lost))
        for rank in asking:
            self._tell(rank, {"go": True})

    def _steps(self, batch: _Batch) -> int:
        """Return how many steps of the batch are done. Where all make one fit together, the first tells."""
        speaking = self._ranks[:1] if batch.together else self._ranks
        under_way = sum(rank.done for rank in speaking if rank.order not in batch.made)
        return under_way + sum(batch.orders[number].steps for number in batch.made)

    def _tell(self, rank: _Rank, words: Words, parcel: Parcel | None = None) -> None:
        try:
            rank.line.tell(words, parcel)
        except Gone:
            raise self._lost("; ".join(self._last_words(rank))) from None

    def _last_words(self, gone: _Rank) -> Iterator[str]:
        """Why ranks are lost, if one is gone. Where one fails torchrun ends the others, of whom one may be missed first."""
        yield _told(gone, gone.last_words())
        for key, _ in self._selector.select(0):
            words = {} if key.data is gone else key.data.heard()[0]
            if "failed" in words:
                yield _told(key.data, words)

    def _lost(self, how: str) -> TryAgain:
        return TryAgain(
            f"learning on {len(self._devices)} devices: {how}",
            hint="the log has more; [learn] devices = 1 learns on one device, and [model] device says on which",
        )


def _told(rank: _Rank, words: Words) -> str:
    """Log that a rank is lost, and say it."""
    _log.error("rank lost", rank=rank.number, device=str(rank.device), process=rank.process, **words)
    return f"{rank}: {words['failed']}"
