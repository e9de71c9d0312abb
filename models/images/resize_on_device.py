"""Model inputs computed on the encoder's device: window, resize, and pad or crop of stored values.

It equals `Preprocess.make_model_input_array`, with the same weights, in two dense products: a GPU multiplies by zeros faster than
it skips them. The GPU receives the integers of the file, half the bytes of float32.
"""

from __future__ import annotations

from functools import lru_cache

import torch

from models.images import resize
from models.images.preprocess import Preprocess

TOLERANCE = 1e-5
"""Largest difference of any grey from `Preprocess.make_model_input_array`, for windows of at least 200 values (12 bits; 2,000 for
16).

In narrower windows far from 0 the host rounds more (5e-5 in 400 of 16 bits): it sums stored values, the device sums greys.
"""


def make_model_input(stored: torch.Tensor, window: resize.ResizeWindow, preprocess: Preprocess) -> torch.Tensor:
    """Return float32 [1, size, size] in 0..1 for integers [H, W] of at most 16 bits, on their device. ImageUnusable.

    Integers and a window are finite, so the result is.
    """
    height, width = preprocess.checked_scaled_size(stored.shape)
    greys = _apply_window(stored, window)
    down = _load_resize_matrix(stored.shape[0], height, preprocess.interpolation, stored.device)
    across = _load_resize_matrix(stored.shape[1], width, preprocess.interpolation, stored.device)
    canvas = greys.new_zeros((preprocess.size, preprocess.size))
    preprocess.place_centred((down @ greys @ across.T).clamp_(0.0, 1.0), canvas)
    return canvas[None]


def _apply_window(stored: torch.Tensor, window: resize.ResizeWindow) -> torch.Tensor:
    """Return float32 [H, W] in 0..1."""
    values = stored.to(torch.float32)
    greys = ((values - window.black) * (1 / (window.white - window.black))).clamp_(0.0, 1.0)
    if window.padding is not None:
        first, last = window.padding
        greys.masked_fill_((values >= first) & (values <= last), 0.0)
    return greys


@lru_cache(maxsize=32)
def _load_resize_matrix(source: int, target: int, interpolation: resize.Interpolation, device: torch.device) -> torch.Tensor:
    """Return float32 [target, source], 2 MB for a large image, cached on the device: an archive has few image sizes."""
    return torch.from_numpy(resize.resize_matrix(source, target, interpolation)).to(device)
