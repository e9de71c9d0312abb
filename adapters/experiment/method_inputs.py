"""Input of every method: the films of a source with the features of one encoder."""

from __future__ import annotations

import torch

from adapters.experiment.bases import ChosenBase
from adapters.experiment.case_source import CaseSource, with_pixel_hashes
from adapters.experiment.feature_cache import FeatureCache
from adapters.ml.error_translation import translate_model_errors
from models.classifier.head import zero_shot_head
from models.classifier.prompts import Prompts
from models.evaluation.cases import Split
from models.ladder.method import FewShotBenchmark

DUPLICATES = "films of the pool with the pixels of a test film"


def build_bench(
    source: CaseSource, cache: FeatureCache, base: ChosenBase, prompts: Prompts, *, device: torch.device
) -> FewShotBenchmark:
    """Return the benchmark. A film of the pool with the pixels of a test film is left out: `count_duplicates`."""
    cases = with_pixel_hashes(source.cases, cache.pixel_sha256)
    split = source.split(cases)
    encoder = base.encoder.to(device)
    with translate_model_errors():
        return FewShotBenchmark(
            cases=cases,
            split=split,
            model_inputs=cache.films,
            input_rows=cache.rows,
            features=cache.features,
            pooled=cache.pooled,
            encoder=encoder,
            preprocess=base.preprocess,
            single=zero_shot_head(encoder, first_prompts(prompts)),
            ensemble=zero_shot_head(encoder, prompts),
        )


def count_duplicates(split: Split) -> dict[str, int]:
    """Return the reason and the number of the films left out of the pool; empty for none."""
    return {DUPLICATES: len(split.duplicates)} if len(split.duplicates) else {}


def first_prompts(prompts: Prompts) -> Prompts:
    """Return one positive and one negative prompt per finding: the first template with the first phrase."""
    return Prompts(
        positive=prompts.positive[:1],
        negative=prompts.negative[:1],
        phrases={finding: phrases[:1] for finding, phrases in prompts.phrases.items()},
    )
