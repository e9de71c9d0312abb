"""Raster tools of the film simulator: a grid in centimetres, soft edges, blur, noise with a spectrum, thin lines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image as PillowImage
from PIL import ImageDraw

Field = npt.NDArray[np.floating[Any]]
"""float32 [H, W]: one number for each pixel (float64 on the way, where NumPy widens)."""

OVERSAMPLING = 2
"""Lines are drawn this much finer and then averaged: Pillow has no antialiasing of its own."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Where each pixel is, in centimetres: `x` to the right of the image from its middle, `y` downward from its top."""

    x: Field
    y: Field
    spacing: float  # cm between pixel centres

    @property
    def shape(self) -> tuple[int, int]:
        """Rows, columns."""
        return self.x.shape[0], self.x.shape[1]

    def moved(self, *, degrees: float, right: float, down: float, zoom: float) -> Grid:
        """Return the grid in the frame of a patient who is turned, shifted (cm) and magnified."""
        angle, middle = np.deg2rad(degrees), float(self.y[-1, 0]) / 2
        x, y = (self.x - right) / zoom, (self.y - middle - down) / zoom
        cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
        return Grid(x * cos + y * sin, y * cos - x * sin + np.float32(middle), self.spacing / zoom)


def grid(rows: int, columns: int, height: float) -> Grid:
    """Make the grid of a detector `height` centimetres tall."""
    spacing = height / rows
    y, x = np.mgrid[0:rows, 0:columns].astype(np.float32)
    return Grid((x - (columns - 1) / 2) * np.float32(spacing), y * np.float32(spacing), spacing)


def step(distance: Field, width: float) -> Field:
    """0 where distance is negative, 1 where it is positive, smooth over `width` (cm)."""
    ramp = np.clip(distance / np.float32(2 * width) + np.float32(0.5), 0, 1)
    return np.asarray(ramp * ramp * (3 - 2 * ramp), dtype=np.float32)


def bump(distance: Field, width: float) -> Field:
    """Gaussian profile: 1 at distance 0."""
    return np.asarray(np.exp(-0.5 * np.square(distance / np.float32(width))), dtype=np.float32)


def ellipse(at: Grid, x: float, y: float, half_width: float, half_height: float, degrees: float = 0.0) -> Field:
    """Return the elliptic radius: 0 in the centre, 1 on the rim."""
    angle = np.deg2rad(degrees)
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    dx, dy = at.x - np.float32(x), at.y - np.float32(y)
    along, across = dx * cos + dy * sin, dy * cos - dx * sin
    radius = np.sqrt(np.square(along / np.float32(half_width)) + np.square(across / np.float32(half_height)))
    return np.asarray(radius, dtype=np.float32)


def ball(radius: Field, power: float = 2.0) -> Field:
    """Thickness profile of a body of elliptic radius `radius`: 1 in the centre, 0 from the rim outward."""
    return np.asarray(np.sqrt(np.clip(1 - radius**power, 0, 1)), dtype=np.float32)


def tube(distance: Field, radius: float, wall: float) -> Field:
    """Thickness (cm) of the wall of a hollow tube seen from the side: bright edges, as cortical bone has."""
    outer = np.sqrt(np.clip(radius * radius - distance * distance, 0, None))
    inner = np.sqrt(np.clip((radius - wall) ** 2 - distance * distance, 0, None))
    return np.asarray(2 * (outer - inner), dtype=np.float32)


def _frequency(shape: tuple[int, int]) -> Field:
    rows, columns = shape
    vertical, horizontal = np.fft.fftfreq(rows)[:, None], np.fft.rfftfreq(columns)[None, :]
    return np.asarray(np.sqrt(np.square(vertical) + np.square(horizontal)), dtype=np.float32)


def blur(image: Field, sigma: float) -> Field:
    """Gaussian blur; sigma in pixels. Edges are mirrored, so that nothing comes in from the other side."""
    rows, columns = image.shape
    margin = min(int(3 * sigma) + 1, rows - 1, columns - 1)
    padded = np.pad(image, margin, mode="symmetric")
    response = np.exp(-2 * np.square(np.pi * sigma * _frequency(padded.shape)))
    smooth = np.fft.irfft2(np.fft.rfft2(padded) * response, s=padded.shape)
    return np.asarray(smooth[margin : margin + rows, margin : margin + columns], dtype=np.float32)


def cloud(shape: tuple[int, int], chance: np.random.Generator, *, size: float, roughness: float = 1.0) -> Field:
    """Noise of mean 0 and standard deviation 1 whose patches are about `size` pixels across; finer detail falls with roughness."""
    frequency = _frequency(shape)
    spectrum = 1 / (1 + (frequency * size) ** (1 + roughness))
    white = chance.standard_normal(shape, dtype=np.float32)
    shaped = np.fft.irfft2(np.fft.rfft2(white) * spectrum, s=shape).astype(np.float32)
    return np.asarray((shaped - shaped.mean()) / shaped.std(), dtype=np.float32)


class Strokes:
    """A sheet on which lines in centimetres are drawn; what is drawn later covers what lies under it."""

    def __init__(self, at: Grid) -> None:
        rows, columns = at.shape
        self._grid = at
        self._sheet = PillowImage.new("F", (columns * OVERSAMPLING, rows * OVERSAMPLING))
        self._pen = ImageDraw.Draw(self._sheet)

    def line(self, points: npt.NDArray[np.floating], width: float, ink: float) -> None:
        """Draw a line through points [N, 2] (x, y in cm of the detector) of this width (cm)."""
        _, columns = self._grid.shape
        scale = OVERSAMPLING / self._grid.spacing
        pixels = points * scale + np.array([columns * OVERSAMPLING / 2, 0.0])
        path = [(float(x), float(y)) for x, y in pixels]
        self._pen.line(path, fill=float(ink), width=max(1, round(width * scale)), joint="curve")

    def rendered(self) -> Field:
        """Return the sheet at the detector's resolution."""
        rows, columns = self._grid.shape
        fine = np.asarray(self._sheet, dtype=np.float32).reshape(rows, OVERSAMPLING, columns, OVERSAMPLING)
        return np.asarray(fine.mean(axis=(1, 3)), dtype=np.float32)
