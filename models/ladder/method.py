"""Input and output of every method of the ladder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from models.classifier.head import LinearHead
from models.encoder.encoder import Encoder
from models.evaluation.cases import PRESENT, Cases, Split
from models.images.preprocess import Preprocess

Logits = npt.NDArray[np.float32]
"""float32 [T, F]: one row per test case, on any monotone scale; NaN in columns without a score."""


@dataclass(frozen=True)
class FewShotBenchmark:
    """Images, their features from the frozen base encoder, and the text directions. Shared by all methods, changed by none."""

    cases: Cases
    split: Split
    # [M, S, S] in 0..1, resized and padded, not normalised (`Preprocess.square`); may be a memory map
    model_inputs: npt.NDArray[np.float16]
    features: torch.Tensor  # float32 [N, D], unit length, from encode_images
    pooled: torch.Tensor  # float32 [N, W], input of the projection (after ln_post)
    encoder: Encoder  # the base weights, on the device of computation; methods train a copy
    preprocess: Preprocess
    single: LinearHead  # zero-shot from one positive and one negative prompt per finding
    ensemble: LinearHead  # zero-shot from all prompts: `models.classifier.head.zero_shot_head`
    input_rows: npt.NDArray[np.intp] | None = (
        None  # [N] row of `model_inputs` of each case; None: they are in the order of the cases
    )


@dataclass(frozen=True)
class Support:
    """The labelled cases of one draw at one shot count. Nested: the rows of k shots come first in those of 2k."""

    shots: int
    draw: int
    rows: npt.NDArray[np.intp]  # [n] row numbers of Cases, all of the pool, one per patient
    studies_read: float  # expected number of random studies read to find these

    def labels(self, cases: Cases) -> npt.NDArray[np.int8]:
        """Return the labels [n, F] of the support."""
        return cases.labels[self.rows]

    def positives(self, cases: Cases) -> npt.NDArray[np.intp]:
        """Return the positives of each finding, [F]; fewer than shots where the pool has no more."""
        return np.asarray((self.labels(cases) == PRESENT).sum(axis=0))

    def normals(self, cases: Cases) -> int:
        """Return the number of normal films; fewer than shots where the pool has no more."""
        return int(cases.normal[self.rows].sum())


class Method(Protocol):
    """One rung of the ladder. `name` is shown in tables. A method without a support runs at most once per draw."""

    name: str
    needs_support: bool  # False: uses no support (chance, zero-shot, all labels)

    def scores(self, bench: FewShotBenchmark, support: Support | None, *, seed: int) -> Logits:
        """Fit on the support's rows alone, without test labels, and score the test cases. Same seed, same logits."""
