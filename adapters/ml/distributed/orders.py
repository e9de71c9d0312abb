"""What a rank does: it takes the base, then the films, then orders for fits, and hands over what it has made.

It writes no file and knows no catalog. Before each step it asks whether it may go on: what makes the learn worker pause makes it
pause.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn

import torch
from torch import distributed

from adapters.ipc.channel import Arrays, Gone, Line, Parcel, Words
from adapters.ml.scorer import choose_device
from models.classifier.head import LinearHead
from models.encoder.base import read_base
from models.encoder.encoder import Encoder
from models.training.data_parallel import WHOLE, Share
from models.training.fold_fits import Fitting, Made, Order
from models.training.recipe import Recipe
from pipeline.errors import WeightsCorrupt

_EQUIPMENT = "equipment.json"
_GROUP = "group"
"""The file by which the ranks find each other."""


@dataclass(frozen=True, kw_only=True)
class Equipment:
    """What every rank is to work with. `base`: folder, whose weights have this SHA-256; `devices`: of rank 0, 1, ..."""

    base: str
    sha256: str
    devices: tuple[str, ...]
    threads: int

    def write(self, folder: Path) -> None:
        """Leave it for the ranks."""
        (folder / _EQUIPMENT).write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, folder: Path) -> Equipment:
        """Read what `write` wrote."""
        return cls(**json.loads((folder / _EQUIPMENT).read_text()))


def carry_out(line: Line, folder: Path, *, rank: int, world: int) -> NoReturn:
    """Make one fit after another, alone or with the other ranks, of whom the first then speaks for all. Gone, in the end."""
    encoder = _equipped(Equipment.read(folder), folder, rank=rank, world=world)
    try:
        _work(line, encoder, rank=rank, world=world)
    except Gone:
        distributed.destroy_process_group()
        raise


def _work(line: Line, encoder: Encoder, *, rank: int, world: int) -> NoReturn:
    fitting = _fitting(encoder, *line.hear())
    while True:
        words, arrays = line.hear()
        share = Share(rank, world) if words["together"] else WHOLE
        order = Order(arrays.pop("rows"), LinearHead.from_tensors(tensors(arrays)), words["steps"])
        made = fitting.fit(order, _Asking(line, share), share)
        if share.rank == 0:
            _hand_over(made, line)


def _equipped(given: Equipment, folder: Path, *, rank: int, world: int) -> Encoder:
    torch.set_num_threads(given.threads)
    device = choose_device(given.devices[rank])
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    distributed.init_process_group(backend, init_method=f"file://{folder / _GROUP}", rank=rank, world_size=world)
    base = read_base(Path(given.base))
    if base.sha256 != given.sha256:
        raise WeightsCorrupt("the base has become another one since the round began", hint="let the round begin again")
    return base.encoder.to(device)


class _Asking:
    """`fold_fits.OnSteps` that asks the worker before each step whether to go on. The first rank asks for all ranks of a step."""

    def __init__(self, line: Line, share: Share) -> None:
        self._line, self._share = line, share

    def __call__(self, done: int) -> None:
        if self._share.rank == 0:
            self._line.tell({"done": done})
            self._line.hear()
        self._share.after_the_first()


def _fitting(encoder: Encoder, words: Words, arrays: Arrays) -> Fitting:
    activations, recipe = torch.from_numpy(arrays["activations"]), Recipe.from_card(words["recipe"])
    return Fitting(encoder, activations, arrays["labels"], recipe, words["seed"])


def _hand_over(made: Made, line: Line) -> None:
    with closing(Parcel.of(arrays_of(made.tensors))) as parcel:
        line.tell({"made": dict(made.card)}, parcel)


def tensors(arrays: Arrays) -> dict[str, torch.Tensor]:
    """Return arrays as tensors of the same memory."""
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def arrays_of(given: Mapping[str, torch.Tensor]) -> Arrays:
    """Return tensors on the CPU as arrays of the same memory."""
    return {name: tensor.numpy() for name, tensor in given.items()}
