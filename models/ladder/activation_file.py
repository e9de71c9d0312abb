"""Activations on disk, for a test set whose activations exceed memory: one file for each number of unfrozen blocks.

    test-k3-<fingerprint>.f16    float16 [T, L, W], in the order of the test images; read as a memory map
    test-k3-<fingerprint>.rows   number of whole rows, written after the rows are synced

The fingerprint covers the images; the weights and the preprocessing are those of the folder. An interrupted computation continues
behind the last whole rows.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from models.errors import CheckpointUnwritable
from models.training.fine_tuning import ACTIVATION_DTYPE


@dataclass(frozen=True)
class ActivationFile:
    """Activations [T, L, W] in one file. `name` without a suffix."""

    folder: Path
    name: str
    shape: tuple[int, int, int]

    def chunks(self, size: int, compute: Callable[[int, int], torch.Tensor]) -> Iterator[torch.Tensor]:
        """Yield the activations in chunks of `size` images. `compute` gives those from one row to another. CheckpointUnwritable."""
        done = self._count_whole_rows()
        mapped = np.memmap(self._rows_path, dtype=np.float16, mode="r", shape=(done, *self.shape[1:])) if done else None
        for start in range(0, self.shape[0], size):
            stop = min(start + size, self.shape[0])
            if mapped is not None and stop <= done:
                yield torch.from_numpy(np.array(mapped[start:stop]))
                continue
            chunk = compute(start, stop)
            try:
                self._append_rows(start, chunk)
            except OSError as error:
                raise CheckpointUnwritable(
                    f"cannot write {self._rows_path}: {error.strerror}", hint="make room, or give another --cache"
                ) from error
            yield chunk

    @property
    def _rows_path(self) -> Path:
        return self.folder / f"{self.name}.f16"

    @property
    def _count_path(self) -> Path:
        return self.folder / f"{self.name}.rows"

    def _count_whole_rows(self) -> int:
        """Return the number of rows on disk; 0 for files that do not fit each other."""
        try:
            count, size = int(self._count_path.read_text()), self._rows_path.stat().st_size
        except (OSError, ValueError):
            return 0
        row = int(np.prod(self.shape[1:])) * ACTIVATION_DTYPE.itemsize
        return count if 0 <= count <= self.shape[0] and size >= count * row else 0

    def _append_rows(self, start: int, chunk: torch.Tensor) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        content = chunk.numpy().tobytes()
        with os.fdopen(os.open(self._rows_path, os.O_WRONLY | os.O_CREAT, 0o644), "wb") as file:
            file.seek(start * len(content) // len(chunk))
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part = self._count_path.with_suffix(".part")
        part.write_text(str(start + len(chunk)))
        part.replace(self._count_path)
