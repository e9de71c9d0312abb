"""The image encoder in bfloat16. Its scores are compared with float32 first; where they differ, float32 serves."""

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
"""Largest difference allowed between a score in bfloat16 and in float32 on the golden images. With the shipped encoder the largest
on 150 phantoms was 0.009, and no AUC changed by more than 0.003. Scoring slightly shifted images again makes more noise."""
MIN_AGREEMENT = 0.99
"""Least AUC of the bfloat16 scores against the float32 order of the golden images."""


@dataclass(frozen=True)
class PrecisionComparison:
    """Scores of the golden images in bfloat16 and in float32. `agreement`: AUC of bfloat16 against the float32 order."""

    largest_difference: float
    agreement: float

    @property
    def is_equivalent(self) -> bool:
        """Whether bfloat16 may serve in place of float32."""
        return self.largest_difference <= MAX_SCORE_DIFFERENCE and self.agreement >= MIN_AGREEMENT


def with_bfloat16_blocks(encoder: Encoder) -> Encoder:
    """Return a copy of the encoder with bfloat16 matrix products in its image blocks and a float32 residual stream.

    A bfloat16 residual stream is no faster and doubles the error. Raise CannotPartition for a tower without a sequence of blocks.
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
    """Return the serving classifier, its comparison with float32, and the reason for float32 where bfloat16 was possible."""
    if choose_dtype(precision, classifier.encoder.device) is torch.float32:
        return classifier, None, ""
    try:
        fast = classifier.map_encoders(with_bfloat16_blocks)
    except CannotPartition as error:
        return classifier, None, str(error)
    compared = compare_precisions(classifier, fast)
    return (fast, compared, "") if compared.is_equivalent else (classifier, compared, "its scores are not those of float32")


def compare_precisions(exact: Classifier, fast: Classifier) -> PrecisionComparison:
    """Score the golden images in both precisions."""
    pixels = torch.stack([exact.preprocess(image) for image in golden_images()])
    scores, others = exact.score_pixels(pixels), fast.score_pixels(pixels)
    return PrecisionComparison(float(np.abs(scores - others).max()), _compute_agreement(scores, others))


def _compute_agreement(scores: npt.NDArray[np.float32], others: npt.NDArray[np.float32]) -> float:
    """Return the share of image pairs with an order in float32 that bfloat16 puts in the same order. Arrays [images, findings]."""
    apart = scores[:, None] - scores[None] > MAX_SCORE_DIFFERENCE
    same = (others[:, None] - others[None])[apart]
    return float((same > 0).mean() + (same == 0).mean() / 2) if apart.any() else 1.0


def _cast_to_bfloat16(_norm: torch.nn.Module, _given: tuple[torch.Tensor, ...], normed: torch.Tensor) -> torch.Tensor:
    return normed.to(torch.bfloat16)
