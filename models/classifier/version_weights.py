"""What a ModelVersion adds to its base: a head, and where the encoder was unfrozen, the tensors that moved with their own head.

Findings that were not learnt keep the head that they had, on the frozen encoder: what moved for others must not change them. So
a version of a partially unfrozen encoder has two ends, and each finding is scored by one of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import torch

from models.classifier.head import LinearHead
from models.encoder.delta import Delta
from models.errors import CheckpointIncompatible

_MOVED, _DELTA, _MEASURED = "moved.", "delta.", "measured."
_COUNT, _FINDINGS = "k", "findings"
_LEARN_AGAIN_HINT = "learn again: radclipd learn --again"


@dataclass(frozen=True)
class FineTunedBlocks:
    """The last `k` blocks, ln_post and proj as they were trained, and the findings bool [F] that they and `head` score."""

    k: int
    delta: Delta
    head: LinearHead
    findings: torch.Tensor


@dataclass(frozen=True)
class OutOfFoldScores:
    """What a later version is compared with: the cases that were learnt from, scored by models that had not seen their patients.

    `cases`: uint8 [n, 32], the SHA-256 of each case's name. `scores`: float32 [n, F]; NaN where there is none.
    """

    cases: torch.Tensor
    scores: torch.Tensor


@dataclass(frozen=True)
class VersionWeights:
    """`head` scores on the base's own encoder whatever `moved` does not."""

    head: LinearHead
    fine_tuned: FineTunedBlocks | None = None
    out_of_fold: OutOfFoldScores | None = None

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, torch.Tensor]) -> Self:
        """Read what `tensors` wrote. WeightsIncompatible where names or shapes are others."""
        plain = {name: tensor for name, tensor in tensors.items() if "." not in name}
        return cls(LinearHead.from_tensors(plain), _read_fine_tuned(tensors), _read_out_of_fold(tensors, len(plain["bias"])))

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        """Every tensor by name; of a head alone its three."""
        found = dict(self.head.tensors)
        if self.fine_tuned is not None:
            found |= {_MOVED + name: tensor for name, tensor in self.fine_tuned.head.tensors.items()}
            found |= {_DELTA + name: tensor for name, tensor in self.fine_tuned.delta.items()}
            found[_MOVED + _COUNT], found[_MOVED + _FINDINGS] = torch.tensor([self.fine_tuned.k]), self.fine_tuned.findings
        if self.out_of_fold is not None:
            found |= {_MEASURED + "cases": self.out_of_fold.cases, _MEASURED + "scores": self.out_of_fold.scores}
        return found


def _read_out_of_fold(tensors: Mapping[str, torch.Tensor], findings: int) -> OutOfFoldScores | None:
    cases, scores = tensors.get(_MEASURED + "cases"), tensors.get(_MEASURED + "scores")
    if cases is None or scores is None:
        return None
    if cases.shape != (len(cases), 32) or scores.shape != (len(cases), findings):
        raise CheckpointIncompatible("the measured cases of the version do not belong together", hint=_LEARN_AGAIN_HINT)
    return OutOfFoldScores(cases, scores)


def _read_fine_tuned(tensors: Mapping[str, torch.Tensor]) -> FineTunedBlocks | None:
    found = {name.removeprefix(_MOVED): tensor for name, tensor in tensors.items() if name.startswith(_MOVED)}
    delta = {name.removeprefix(_DELTA): tensor for name, tensor in tensors.items() if name.startswith(_DELTA)}
    if not found and not delta:
        return None
    try:
        k, findings = int(found.pop(_COUNT)), found.pop(_FINDINGS)
    except KeyError as error:
        raise CheckpointIncompatible(f"a version with moved tensors lacks {error}", hint=_LEARN_AGAIN_HINT) from error
    head = LinearHead.from_tensors(found)
    if findings.shape != head.bias.shape or findings.dtype != torch.bool or not delta:
        raise CheckpointIncompatible("the moved tensors of the version do not belong together", hint=_LEARN_AGAIN_HINT)
    return FineTunedBlocks(k, delta, head, findings)
