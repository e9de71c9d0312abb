"""The head of the paper that radclipd follows, in an honest few-shot run.

Dalsania, arXiv 2507.07254: an MLP on the frozen image features. In the paper's code it is pre-trained on 75,312 labelled images of
the same hospital, and the epoch is chosen on the test set. Here it starts at random, as in a hospital without those labels, and the
last epoch is used.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch.nn import functional

from models.evaluation.cases import PRESENT, UNKNOWN
from models.ladder.labelled_features import LabelledFeatures
from models.ladder.method import FewShotBenchmark, Logits, Support

_HIDDEN = (512, 256)
_DROPOUT = (0.3, 0.2)


@dataclass
class PaperHead:
    """Linear 512, LayerNorm, GELU, dropout .3; linear 256, LayerNorm, GELU, dropout .2; linear F; Kaiming start. AdamW 1e-4, weight
    decay 1e-2, plain binary cross-entropy over the known labels, 5 epochs in batches of 16. No zero-shot fallback.
    """

    name: str = "paper-head"
    needs_support: bool = True
    epochs: int = 5
    batch: int = 16
    rate: float = 1e-4
    decay: float = 1e-2

    def scores(self, bench: FewShotBenchmark, support: Support | None, *, seed: int) -> Logits:
        known = LabelledFeatures.of_support(bench, support)
        generator = torch.Generator().manual_seed(seed)
        head = _Perceptron(known.features.shape[1], known.labels.shape[1], generator)
        self._train_head(head, known, generator)
        with torch.no_grad():
            logits: Logits = head.forward(bench.features[bench.split.test].float().cpu()).numpy()
        return logits

    def _train_head(self, head: _Perceptron, known: LabelledFeatures, generator: torch.Generator) -> None:
        features = torch.from_numpy(known.features.astype(np.float32))
        target = torch.from_numpy((known.labels == PRESENT).astype(np.float32))
        weight = torch.from_numpy((known.labels != UNKNOWN).astype(np.float32))
        optimiser = torch.optim.AdamW(head.parameters, lr=self.rate, weight_decay=self.decay)
        for _ in range(self.epochs):
            for rows in torch.split(torch.randperm(len(features), generator=generator), self.batch):
                logits = head.forward(features[rows], dropout_generator=generator)
                loss = functional.binary_cross_entropy_with_logits(logits, target[rows], weight[rows], reduction="sum")
                optimiser.zero_grad()
                (loss / weight[rows].sum().clamp(min=1)).backward()  # type: ignore[no-untyped-call]
                optimiser.step()


class _Perceptron:
    """The network, with all randomness from one generator: torch's own dropout uses the global one."""

    def __init__(self, width: int, findings: int, generator: torch.Generator) -> None:
        widths = (width, *_HIDDEN, findings)
        self._linear = [
            (torch.nn.init.kaiming_normal_(torch.empty(after, before), generator=generator), torch.zeros(after))
            for before, after in pairwise(widths)
        ]
        self._norm = [(torch.ones(hidden), torch.zeros(hidden)) for hidden in _HIDDEN]
        self.parameters = [tensor.requires_grad_() for pair in (*self._linear, *self._norm) for tensor in pair]

    def forward(self, features: torch.Tensor, *, dropout_generator: torch.Generator | None = None) -> torch.Tensor:
        """Return logits [n, F] for features [n, D]; with a generator, hidden units are dropped as in training."""
        hidden = features
        for (weight, bias), (gain, offset), rate in zip(self._linear, self._norm, _DROPOUT, strict=False):
            layer = functional.linear(hidden, weight, bias)
            hidden = functional.gelu(functional.layer_norm(layer, layer.shape[1:], gain, offset))
            if dropout_generator is not None:
                hidden = hidden * (torch.rand(hidden.shape, generator=dropout_generator) >= rate) / (1 - rate)
        return functional.linear(hidden, *self._linear[-1])
