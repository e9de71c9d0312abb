"""The resize equals torch's and does not import torch."""

from __future__ import annotations

import itertools
import subprocess
import sys
from typing import Literal

import numpy as np
import pytest
import torch
from torch.nn import functional

from models.images.preprocess import Preprocess
from models.images.resize import resize_image
from tests.builders import tiny

TOLERANCE = 5e-5
"""Torch uses float32 weights and another order of summation. An 8-bit grey level is 80 times as large."""
EDGES, RESULTS = (2, 3, 17, 50, 333), (2, 3, 17, 64, 224)
"""No edge of 1: for a source or result one pixel wide, torch confuses strides and repeats its first row."""


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("height", EDGES)
def test_the_resize_equals_torchs(height: int, interpolation: Literal["bicubic", "bilinear"]) -> None:
    for width, to_height, to_width in itertools.product(EDGES, RESULTS, RESULTS):
        film = tiny.film(height, width)
        theirs = functional.interpolate(
            torch.from_numpy(film)[None, None], (to_height, to_width), mode=interpolation, antialias=True, align_corners=False
        )
        ours = resize_image(film, to_height, to_width, interpolation)
        assert np.abs(ours - theirs[0, 0].numpy()).max() < TOLERANCE, (width, to_height, to_width)


def test_an_image_of_a_detectors_size_equals_torchs() -> None:
    film = tiny.film(2560, 2048)
    theirs = functional.interpolate(torch.from_numpy(film)[None, None], (224, 179), mode="bicubic", antialias=True)[0, 0]
    assert resize_image(film, 224, 179, "bicubic") == pytest.approx(theirs.numpy(), abs=TOLERANCE)


def test_an_image_of_the_target_size_is_unchanged() -> None:
    model_input = Preprocess(size=64).make_model_input_array(tiny.film(300, 200))
    assert np.array_equal(Preprocess(size=64).make_model_input_array(model_input), model_input)


def test_the_model_input_is_made_without_torch() -> None:
    script = """
import sys, numpy as np
from models.images.preprocess import Preprocess
assert Preprocess(size=32).make_model_input_array(np.ones((50, 40), dtype=np.float32)).shape == (32, 32)
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True)
