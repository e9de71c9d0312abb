"""The lower rungs of the ladder: chance, metadata, and zero-shot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from torch.nn import functional

from models.classifier.head import LinearHead
from models.evaluation.cases import Cases
from models.ladder.labelled_features import LabelledFeatures, head_logits
from models.ladder.logistic import fit_logistic_regression
from models.ladder.method import FewShotBenchmark, Logits, Support


@dataclass
class ChanceBaseline:
    """Normal noise. Its AUC must be .5 within its interval, or the measurement is wrong."""

    name: str = "chance"
    needs_support: bool = False

    def scores(self, bench: FewShotBenchmark, support: Support | None, *, seed: int) -> Logits:
        shape = (len(bench.split.test), len(bench.cases.findings))
        return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


@dataclass
class MetadataBaseline:
    """Logistic regression on age, sex and view, without pixels: the discrimination available from metadata alone.

    A finding that cannot be learnt scores 0 everywhere: metadata have no zero-shot fallback.
    """

    name: str = "metadata"
    needs_support: bool = True
    ridge: float = 1.0

    def scores(self, bench: FewShotBenchmark, support: Support | None, *, seed: int) -> Logits:
        known = LabelledFeatures.of_support(bench, support)
        metadata = _encode_metadata(bench.cases)
        rows = support.rows if support is not None else np.arange(0)
        weights, bias = fit_logistic_regression(LabelledFeatures(metadata[rows], known.labels), ridge=self.ridge)
        return np.asarray(metadata[bench.split.test] @ weights.T + bias, dtype=np.float32)


@dataclass
class ZeroShotBaseline:
    """The prompts alone: no label and no image of the site. One prompt pair per finding, or all of them."""

    name: str
    prompts: Literal["single", "ensemble"]
    needs_support: bool = False

    def scores(self, bench: FewShotBenchmark, support: Support | None, *, seed: int) -> Logits:
        return head_logits(_select_head(bench, self.prompts), bench)


@dataclass
class ZeroShotCentred:
    """Zero-shot on features minus the mean of the pool, normalised to unit length. No label."""

    name: str = "zero-shot-centred"
    needs_support: bool = False

    def scores(self, bench: FewShotBenchmark, support: Support | None, *, seed: int) -> Logits:
        centre = bench.features[bench.split.pool].mean(dim=0)
        centred = functional.normalize(bench.features[bench.split.test] - centre, dim=1)
        logits: Logits = bench.ensemble.to(centred.device).logits(centred).cpu().numpy()
        return logits


def _select_head(bench: FewShotBenchmark, prompts: Literal["single", "ensemble"]) -> LinearHead:
    return bench.single if prompts == "single" else bench.ensemble


def _encode_metadata(cases: Cases) -> npt.NDArray[np.float64]:
    """Return [N, 6]: age in units of 20 years from 50, its absence, sex and view as -1 / 0 / 1 and their absence."""
    age = (cases.age.astype(np.float64) - 50) / 20
    columns = [np.nan_to_num(age, nan=0.0), np.isnan(age)]
    for values, (low, high) in ((cases.sex, ("F", "M")), (cases.view, ("PA", "AP"))):
        coded = (values == high).astype(np.float64) - (values == low)
        columns += [coded, coded == 0]
    return np.column_stack(columns).astype(np.float64)
