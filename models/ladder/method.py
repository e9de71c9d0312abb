"""What every method of the ladder is given, and what it gives back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from models.classifier.head import LinearHead
from models.encoder.encoder import Encoder
from models.evaluation.cases import Cases, Split
from models.images.preprocess import Preprocess

Logits = npt.NDArray[np.float32]
"""float32 [T, F]: one row for each test case, any monotone scale; NaN in a column that the method cannot score."""


@dataclass(frozen=True)
class FewShotBenchmark:
    """Films, their features from the frozen base encoder, and the text directions. Shared by all methods, changed by none."""

    cases: Cases
    split: Split
    model_inputs: npt.NDArray[
        np.float16
    ]  # [N, S, S] in 0..1, resized and padded, not normalised (`Preprocess.square`); may be a memory map
    features: torch.Tensor  # float32 [N, D], unit length, as encode_images gives
    pooled: torch.Tensor  # float32 [N, W], what the projection is applied to (after ln_post)
    encoder: Encoder  # the base weights, on the device to work on; methods that train work on a copy
    preprocess: Preprocess
    single: LinearHead  # zero-shot from one positive and one negative prompt a finding
    ensemble: LinearHead  # zero-shot from all prompts: `models.classifier.head.zero_shot_head`


@dataclass(frozen=True)
class Support:
    """The labelled cases of one draw at one shot count. Nested: the rows of k shots come first in those of 2k."""

    shots: int
    draw: int
    rows: npt.NDArray[np.intp]  # [n] row numbers of Cases, all of the pool, one a patient
    studies_read: float  # how many studies are read at random, on average, until these are found

    def labels(self, cases: Cases) -> npt.NDArray[np.int8]:
        """[n, F]: what is known of them."""
        return cases.labels[self.rows]


class Method(Protocol):
    """One rung. `name` is what tables show. `shots` says whether a support is used: a method without is run once a draw at most."""

    name: str
    needs_support: bool  # False: needs no support (chance, zero-shot, all labels)

    def scores(self, bench: FewShotBenchmark, support: Support | None, *, seed: int) -> Logits:
        """Fit on the support's rows alone, never looking at a test label, and score the test cases. Same seed, same logits."""
