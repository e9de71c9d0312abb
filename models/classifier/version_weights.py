"""Weights of a ModelVersion on top of its base: a head and, after partial unfreezing, the fine-tuned tensors with their own head.

Findings that were not learnt keep their earlier head on the frozen encoder: fine-tuning for other findings must not change them. A
version with fine-tuned blocks therefore has two output branches, and each finding is scored by one of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import torch

from models.classifier.head import LinearHead
from models.encoder.delta import Delta
from models.errors import CheckpointIncompatible

_HEAD, _DELTA, _OUT_OF_FOLD = "moved.", "delta.", "measured."  # prefixes of tensor names in the file of a version
_COUNT, _FINDINGS = "k", "findings"
_LEARN_AGAIN_HINT = "learn again: radclipd learn --again"


@dataclass(frozen=True)
class FineTunedBlocks:
    """The trained last `k` blocks, ln_post and proj, and the findings bool [F] that they and `head` score."""

    k: int
    delta: Delta
    head: LinearHead
    findings: torch.Tensor


@dataclass(frozen=True)
class OutOfFoldScores:
    """Reference scores for the comparison with a later version: the training cases, scored by models trained on other patients.

    `cases`: uint8 [n, 32], the SHA-256 of each case's name. `scores`: float32 [n, F]; NaN for a missing score.
    """

    cases: torch.Tensor
    scores: torch.Tensor


@dataclass(frozen=True)
class VersionWeights:
    """All weights of a version. `head` scores, on the base encoder, the findings that `fine_tuned` does not score."""

    head: LinearHead
    fine_tuned: FineTunedBlocks | None = None
    out_of_fold: OutOfFoldScores | None = None

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, torch.Tensor]) -> Self:
        """Read the form that `tensors` writes. Raise CheckpointIncompatible for other names or shapes."""
        plain = {name: tensor for name, tensor in tensors.items() if "." not in name}
        return cls(LinearHead.from_tensors(plain), _read_fine_tuned(tensors), _read_out_of_fold(tensors, len(plain["bias"])))

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        """Every tensor by name; for a head alone its three."""
        found = dict(self.head.tensors)
        if self.fine_tuned is not None:
            found |= {_HEAD + name: tensor for name, tensor in self.fine_tuned.head.tensors.items()}
            found |= {_DELTA + name: tensor for name, tensor in self.fine_tuned.delta.items()}
            found[_HEAD + _COUNT], found[_HEAD + _FINDINGS] = torch.tensor([self.fine_tuned.k]), self.fine_tuned.findings
        if self.out_of_fold is not None:
            found |= {_OUT_OF_FOLD + "cases": self.out_of_fold.cases, _OUT_OF_FOLD + "scores": self.out_of_fold.scores}
        return found


def _read_out_of_fold(tensors: Mapping[str, torch.Tensor], findings: int) -> OutOfFoldScores | None:
    cases, scores = tensors.get(_OUT_OF_FOLD + "cases"), tensors.get(_OUT_OF_FOLD + "scores")
    if cases is None or scores is None:
        return None
    if cases.shape != (len(cases), 32) or scores.shape != (len(cases), findings):
        raise CheckpointIncompatible("the out-of-fold cases and scores of the version do not match", hint=_LEARN_AGAIN_HINT)
    return OutOfFoldScores(cases, scores)


def _read_fine_tuned(tensors: Mapping[str, torch.Tensor]) -> FineTunedBlocks | None:
    found = {name.removeprefix(_HEAD): tensor for name, tensor in tensors.items() if name.startswith(_HEAD)}
    delta = {name.removeprefix(_DELTA): tensor for name, tensor in tensors.items() if name.startswith(_DELTA)}
    if not found and not delta:
        return None
    try:
        k, findings = int(found.pop(_COUNT)), found.pop(_FINDINGS)
    except KeyError as error:
        raise CheckpointIncompatible(f"a version with fine-tuned tensors lacks {error}", hint=_LEARN_AGAIN_HINT) from error
    head = LinearHead.from_tensors(found)
    if findings.shape != head.bias.shape or findings.dtype != torch.bool or not delta:
        raise CheckpointIncompatible("the fine-tuned tensors of the version do not match", hint=_LEARN_AGAIN_HINT)
    return FineTunedBlocks(k, delta, head, findings)
