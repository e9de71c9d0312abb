"""Fits of a few small films, a base for ranks, and the processes, processor time and sockets of ranks from /proc."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from adapters.ml.distributed.ranks import RankPool
from models.encoder.base import Base, read_base
from models.training.fine_tuning import view_activations
from models.training.fold_fits import FitContext, FitSpec
from models.training.recipe import Augmentation, Recipe
from tests.builders import learnable_films

FILMS, LABELS = learnable_films.labelled(40, seed=1)
RECIPE = replace(Recipe(), k=2, batch=15, block_rate=1e-4, proj_rate=1e-4, precision="float32", augmentation=Augmentation(views=2))
"""Float32 on every processor, as `models.training.data_parallel.TOLERANCE` assumes."""
STEPS = 12


def fitting(base: Base, recipe: Recipe = RECIPE) -> FitContext:
    inputs = torch.from_numpy(FILMS.astype(np.float32))[:, None]
    return FitContext(base.encoder, view_activations(base.encoder, base.preprocess, inputs, recipe, k=2, seed=0), LABELS, recipe, 0)


def orders(base: Base, folds: int) -> list[FitSpec]:
    """Return one fit of all films, or a fit per fold without its films, each with another number of steps."""
    head, number = learnable_films.head_for(base.encoder), np.arange(len(LABELS))
    if folds == 1:
        return [FitSpec(number, head, STEPS)]
    return [FitSpec(np.flatnonzero(number % folds != fold), head, STEPS - fold) for fold in range(folds)]


def read(folder: Path) -> Base:
    return read_base(folder)


def two(folder: Path, base: Base) -> RankPool:
    return RankPool([torch.device("cpu")] * 2, folder, sha256=base.sha256, threads=1)


def started(process: int) -> list[int]:
    """Return all descendants of a process."""
    found = []
    for task in Path(f"/proc/{process}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += [int(child), *started(int(child))]
    return found


def command(process: int) -> str:
    return Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode()


def of_ranks(process: int) -> list[int]:
    """Return launcher and ranks below this process."""
    return [pid for pid in started(process) if "adapters.ml.distributed." in command(pid)]


def runs(process: int) -> bool:
    try:
        stat = Path(f"/proc/{process}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def processor_seconds(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def until(condition: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def listening(process: int) -> Iterator[str]:
    """Yield the addresses, in /proc/net/tcp notation, at which a process listens."""
    inodes = {link.readlink().name for link in Path(f"/proc/{process}/fd").iterdir() if str(link.readlink()).startswith("socket:")}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{process}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes:
                yield fields[1].partition(":")[0]
