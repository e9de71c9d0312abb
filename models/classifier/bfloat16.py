"""The encoder in bfloat16: what it scores is compared with float32 first, and where that differs it stays float32."""

from __future__ import annotations

import models.encoder  # noqa: F401 - before open_clip: see models.encoder.torchvision_ops

# isort: split

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from open_clip.transformer import ResidualAttentionBlock

from models.classifier.classifier import Classifier
from models.encoder.delta import copy_with_own_parameters
from models.encoder.encoder import Encoder
from models.encoder.golden import golden_images
from models.encoder.partition import vision_transformer
from models.encoder.precision import Precision, choose_dtype
from models.errors import CannotPartition

MAX_SCORE_DIFFERENCE = 0.02
"""How far a score in bfloat16 may be from that in float32 on the golden films. With the shipped encoder 0.009 was the most on 150
phantoms, and no AUC moved by more than 0.003: the noise of films that were scored again a little shifted is larger."""
MIN_AGREEMENT = 0.99
"""Least AUC of the scores in bfloat16 against the order that float32 puts the golden films in."""


@dataclass(frozen=True)
class PrecisionComparison:
    """Scores in bfloat16 beside those in float32, of the golden films. `agreement`: AUC against the order in float32."""

    largest_difference: float
    agreement: float

    @property
    def is_equivalent(self) -> bool:
        """Whether the one may stand for the other."""
        return self.largest_difference <= MAX_SCORE_DIFFERENCE and self.agreement >= MIN_AGREEMENT


def with_bfloat16_blocks(encoder: Encoder) -> Encoder:
    """Return an encoder whose image blocks multiply in bfloat16 and whose residual stream stays float32. The given one stays.

    A stream in bfloat16, too, is no faster and twice as far off. CannotPartition for towers that are no sequence of blocks.
    """
    names = [name for name, _ in encoder.network.named_parameters() if name.startswith("visual.transformer.resblocks.")]
    twin = copy_with_own_parameters(encoder, names)
    for block in vision_transformer(twin.network).transformer.resblocks:
        if type(block) is not ResidualAttentionBlock:
            raise CannotPartition(f"its blocks are {type(block).__name__}")
        for norm, products in ((block.ln_1, block.attn), (block.ln_2, block.mlp)):
            products.to(torch.bfloat16)
            norm.register_forward_hook(_cast_to_bfloat16)
    twin.precision = torch.bfloat16
    return twin


def choose_serving_precision(classifier: Classifier, precision: Precision) -> tuple[Classifier, PrecisionComparison | None, str]:
    """Return the classifier as it may serve, how it compares with float32, and why it is float32 though bfloat16 was to be had."""
    if choose_dtype(precision, classifier.encoder.device) is torch.float32:
        return classifier, None, ""
    try:
        fast = classifier.map_encoders(with_bfloat16_blocks)
    except CannotPartition as error:
        return classifier, None, str(error)
    compared = compare_precisions(classifier, fast)
    return (fast, compared, "") if compared.is_equivalent else (classifier, compared, "its scores are not those of float32")


def compare_precisions(exact: Classifier, fast: Classifier) -> PrecisionComparison:
    """Score the golden films both ways."""
    pixels = torch.stack([exact.preprocess(film) for film in golden_images()])
    scores, others = exact.score_pixels(pixels), fast.score_pixels(pixels)
    return PrecisionComparison(float(np.abs(scores - others).max()), _compute_agreement(scores, others))


def _compute_agreement(scores: npt.NDArray[np.float32], others: npt.NDArray[np.float32]) -> float:
    """Return how often, of two films that float32 tells apart, the other way puts the same one first. Arrays [films, findings]."""
    apart = scores[:, None] - scores[None] > MAX_SCORE_DIFFERENCE
    same = (others[:, None] - others[None])[apart]
    return float((same > 0).mean() + (same == 0).mean() / 2) if apart.any() else 1.0


def _cast_to_bfloat16(_norm: torch.nn.Module, _given: tuple[torch.Tensor, ...], normed: torch.Tensor) -> torch.Tensor:
    return normed.to(torch.bfloat16)
