"""Safe augmentation of chest images: small rotation, shift, zoom, brightness, contrast, gamma. Never a flip.

A mirrored chest image shows another finding: dextrocardia, or an effusion on the other side. The background stays black: all tone
changes keep 0 at 0, and pixels outside a rotated image are 0.
"""

from __future__ import annotations

import math

import torch
from torch.nn import functional

from models.training.recipe import Augmentation

_DARKEST = 1e-6  # below it a power has no useful slope, and the image is black


def augment_inputs(inputs: torch.Tensor, amounts: Augmentation, generator: torch.Generator) -> torch.Tensor:
    """Return augmented model inputs, float32 [N, 1, S, S] in 0..1, of model inputs of that shape, each changed independently.

    Draws from `generator`, a CPU generator, the same count for each input: the same state gives the same views on any device.
    """
    draws = torch.rand(len(inputs), 7, generator=generator) * 2.0 - 1.0
    turn, right, down, zoom, brightness, contrast, gamma = draws.to(inputs.device).T
    moved = _warp_inputs(
        inputs.float(),
        _build_affine_matrices(
            turn * math.radians(amounts.degrees), right * amounts.shift, down * amounts.shift, 1.0 + zoom * amounts.zoom
        ),
    )
    return _adjust_tone(moved, brightness * amounts.brightness, contrast * amounts.contrast, 1.0 + gamma * amounts.gamma)


def _build_affine_matrices(turn: torch.Tensor, right: torch.Tensor, down: torch.Tensor, zoom: torch.Tensor) -> torch.Tensor:
    """Return [N, 2, 3]: source of each pixel, in units of half the edge. The determinant is positive: no mirror image."""
    cosine, sine = torch.cos(turn) / zoom, torch.sin(turn) / zoom
    x, y = -2.0 * right, -2.0 * down
    return torch.stack(
        [
            torch.stack([cosine, -sine, cosine * x - sine * y], dim=1),
            torch.stack([sine, cosine, sine * x + cosine * y], dim=1),
        ],
        dim=1,
    )


def _warp_inputs(inputs: torch.Tensor, matrices: torch.Tensor) -> torch.Tensor:
    grid = functional.affine_grid(matrices, list(inputs.shape), align_corners=False)
    return functional.grid_sample(inputs, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _adjust_tone(inputs: torch.Tensor, brightness: torch.Tensor, contrast: torch.Tensor, gamma: torch.Tensor) -> torch.Tensor:
    """Change tones. Contrast scales greys about the image's mean along a parabola through 0, so that black stays black."""
    gain, slope, power = (amount[:, None, None, None] for amount in (1.0 + brightness, contrast, gamma))
    toned = gain * inputs.clamp(min=_DARKEST) ** power * (inputs > 0)
    mean = toned.mean(dim=(1, 2, 3), keepdim=True)
    return (toned * (1.0 + slope * (toned - mean))).clamp(0.0, 1.0)
