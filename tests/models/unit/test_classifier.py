from __future__ import annotations

import numpy as np
import pytest
import torch

from models.classifier.classifier import BATCH_TOLERANCE, Classifier
from models.classifier.head import LinearHead, zero_shot_head
from models.classifier.prompts import read_prompts
from models.errors import CheckpointIncompatible, ImageUnusable
from models.images.preprocess import Preprocess
from tests.builders import tiny


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    encoder = tiny.encoder()
    return Classifier(encoder, Preprocess(size=tiny.SIZE), zero_shot_head(encoder, read_prompts()))


IMAGES = [
    tiny.film(height, width, seed=height)
    for height, width in [(64, 64), (300, 200), (90, 310), (1, 1), (2, 700), (512, 512), (65, 64)]
]


def test_images_of_any_size_become_scores_in_order(classifier: Classifier) -> None:
    scores = classifier.score(IMAGES, batch_size=3)
    assert scores.shape == (7, 14)
    assert scores.dtype == np.float32
    assert ((scores >= 0) & (scores <= 1)).all()
    assert len(np.unique(scores[:, 0])) > 1  # the image has a say
    assert classifier.score(IMAGES[::-1], batch_size=7)[::-1] == pytest.approx(scores, abs=BATCH_TOLERANCE)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 100])
def test_the_score_of_an_image_does_not_depend_on_its_batch(classifier: Classifier, batch_size: int) -> None:
    alone = np.concatenate([classifier.score([image], batch_size=1) for image in IMAGES])
    assert classifier.score(IMAGES, batch_size=batch_size) == pytest.approx(alone, abs=BATCH_TOLERANCE / 10)


def test_the_content_of_other_images_in_the_batch_changes_nothing(classifier: Classifier) -> None:
    image, bright = IMAGES[1], np.ones((400, 30), dtype=np.float32)
    beside_dark = classifier.score([image, np.zeros_like(bright)], batch_size=2)[0]
    assert np.array_equal(classifier.score([image, bright], batch_size=2)[0], beside_dark)


def test_scoring_is_deterministic(classifier: Classifier) -> None:
    assert np.array_equal(classifier.score(IMAGES, batch_size=4), classifier.score(IMAGES, batch_size=4))


def test_no_images_give_no_scores(classifier: Classifier) -> None:
    assert classifier.score([], batch_size=4).shape == (0, 14)


def test_an_image_of_nan_is_refused(classifier: Classifier) -> None:
    with pytest.raises(ImageUnusable):
        classifier.score([IMAGES[0], np.full((5, 5), np.nan, dtype=np.float32)], batch_size=4)


def test_a_head_of_another_encoder_is_refused(classifier: Classifier) -> None:
    head = LinearHead(torch.zeros(14, 512), torch.ones(14), torch.zeros(14))
    with pytest.raises(CheckpointIncompatible, match="512"):
        Classifier(classifier.encoder, classifier.preprocess, head)


def test_nan_features_raise_instead_of_giving_scores(classifier: Classifier) -> None:
    encoder = tiny.encoder()
    encoder.network.get_parameter("visual.ln_post.bias").fill_(torch.nan)
    with pytest.raises(CheckpointIncompatible, match="finite"):
        Classifier(encoder, classifier.preprocess, classifier.head).score(IMAGES[:1], batch_size=1)
