"""What every method works on: the films of a source as one encoder sees them."""

from __future__ import annotations

import torch

from adapters.experiment.bases import ChosenBase
from adapters.experiment.cache import Cached
from adapters.experiment.sources import Source, with_pixels
from adapters.ml.error_translation import in_the_pipelines_words
from models.classifier.head import zero_shot_head
from models.classifier.prompts import Prompts
from models.ladder.method import Bench


def bench_of(source: Source, cached: Cached, base: ChosenBase, prompts: Prompts, *, device: torch.device) -> Bench:
    """Return the bench. Refused where a film is on both sides, now that the pixels are known."""
    cases = with_pixels(source.cases, cached.pixel_sha256)
    split = source.split(cases)
    encoder = base.encoder.to(device)
    with in_the_pipelines_words():
        return Bench(
            cases=cases,
            split=split,
            films=cached.films,
            features=cached.features,
            pooled=cached.pooled,
            encoder=encoder,
            preprocess=base.preprocess,
            single=zero_shot_head(encoder, first_of(prompts)),
            ensemble=zero_shot_head(encoder, prompts),
        )


def first_of(prompts: Prompts) -> Prompts:
    """Return one positive and one negative prompt a finding: the first template with the first phrase."""
    return Prompts(
        positive=prompts.positive[:1],
        negative=prompts.negative[:1],
        phrases={finding: phrases[:1] for finding, phrases in prompts.phrases.items()},
    )
