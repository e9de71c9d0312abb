"""The stage 1 head: a weighted average of two text-anchored heads trained on the same labels.

Both use the archive's whitening and the text as prior; they differ in their model of the labels.

* `anchored_head` models the features of images with the finding. Its error is small with few positives, but it takes them for a
  random sample, and the labelling worklist selects them.
* `discriminative_head` models the finding given the features. It does not depend on a selection by features, but it uses labelled
  images alone and has a larger error with few.

The selection bias of the first stays for any number of images; the squared error of the second falls as 1 / n. The best weight of
an estimator with such a falling error beside one with constant error is n / (n + m), with m the number of images at which both
errors are equal. m is a constant, since labels cannot determine it: held-out images are selected in the same way as training
images, and choosing the head with the smaller held-out loss was worse than this weight, on random and on mined images.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch

from models.classifier.head import LinearHead
from models.training.anchored_head import AnchoredHeadSettings, fit_anchored_weights
from models.training.discriminative_head import DiscriminativeHeadSettings, fit_discriminative_weights
from models.training.whitening import Floats, Labels, WhiteningTransform, fit_with_text_fallback


@dataclass(frozen=True)
class StageOneSettings:
    """Constants of stage 1. `alike`: number of images of a finding's rarer kind at which both heads weigh one half.

    It was chosen on phantoms, labelled at random and mined, with knowledge of those of the experiment: the experiment's results for
    stage 1 may be slightly optimistic.
    """

    anchoring: AnchoredHeadSettings = field(default_factory=AnchoredHeadSettings)
    discrimination: DiscriminativeHeadSettings = field(default_factory=DiscriminativeHeadSettings)
    alike: float = 1.5


def stage_one_head(
    features: torch.Tensor,
    labels: Labels,
    text: LinearHead,
    whitening: WhiteningTransform,
    settings: StageOneSettings = StageOneSettings(),
    *,
    weights: Floats | None = None,
) -> LinearHead:
    """Return the head for unit vectors [n, D], labels [n, F] and their weights; see `fit_with_text_fallback`. Deterministic.

    Its logits are log-odds at even odds; calibration shifts them to the prevalence of the site.
    """
    return fit_with_text_fallback(partial(_combine_heads, settings=settings), features, labels, text, whitening, weights)


def _combine_heads(
    white: Floats, labels: Labels, anchor: Floats, whitening: WhiteningTransform, weights: Floats, *, settings: StageOneSettings
) -> tuple[Floats, Floats]:
    """Implement `FitWeights`."""
    found = np.minimum(((labels == 1) * weights).sum(axis=0), ((labels == 0) * weights).sum(axis=0))
    share = found / (found + settings.alike)
    anchored, discriminative = (
        fit_anchored_weights(white, labels, anchor, whitening, weights, settings.anchoring),
        fit_discriminative_weights(white, labels, anchor, whitening, weights, settings.discrimination),
    )
    return (
        (1 - share)[:, None] * anchored[0] + share[:, None] * discriminative[0],
        (1 - share) * anchored[1] + share * discriminative[1],
    )
