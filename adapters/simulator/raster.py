"""Raster tools of the film simulator: a grid in centimetres, soft edges, blur, noise with a spectrum, ribbons and tubes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image as PillowImage
from scipy import ndimage

Field = npt.NDArray[np.floating[Any]]
"""float32 [H, W]: one value per pixel; [1, W] or [H, 1] for a function of x or y alone."""

LATTICE_SPAN = 48.0
"""Period of `fractal_noise`, cm: larger than any film."""
SPLINE_SPREAD = 0.479
"""Standard deviation of a lattice of unit normals after cubic B-spline interpolation in two dimensions: 151/315."""
FINEST_SPACING = 0.1
"""Pixel pitch (cm) below which structures without fine edges are computed at half the resolution."""
RIBBON_SAMPLING = 0.75
"""Distance of the points of a ribbon, pixels."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Pixel coordinates in centimetres: `x` [1, W] rightward from the middle of the image, `y` [H, 1] downward from its top."""

    x: Field
    y: Field
    spacing: float  # cm between pixel centres

    @property
    def shape(self) -> tuple[int, int]:
        """Rows, columns."""
        return self.y.shape[0], self.x.shape[1]

    def in_patient_frame(self, *, right: float, down: float, zoom: float) -> Grid:
        """Return the grid in the frame of a patient who is shifted (cm) and magnified about the middle of the film."""
        middle = np.float32((self.y[0, 0] + self.y[-1, 0]) / 2)
        x, y = (self.x - np.float32(right)) / np.float32(zoom), (self.y - middle - np.float32(down)) / np.float32(zoom)
        return Grid(x, y + middle, self.spacing / zoom)

    def downsampled(self) -> Grid:
        """Return the grid of half as many rows and columns where pixels are finer than FINEST_SPACING, otherwise this grid."""
        if self.spacing >= FINEST_SPACING:
            return self
        y, x = self.y[: self.y.size // 2 * 2], self.x[:, : self.x.size // 2 * 2]
        return Grid((x[:, ::2] + x[:, 1::2]) / 2, (y[::2] + y[1::2]) / 2, 2 * self.spacing)

    def upsample(self, coarse: Field) -> Field:
        """Return a field of `coarse` interpolated to this grid."""
        if coarse.shape == self.shape:
            return coarse
        rows, columns = (
            _build_interpolation_matrix(length, 2, small) for length, small in zip(self.shape, coarse.shape, strict=True)
        )
        return np.asarray(rows @ coarse @ columns.T)

    def zeros(self) -> Field:
        """Return a field of zeros."""
        return np.zeros(self.shape, dtype=np.float32)


def make_grid(rows: int, columns: int, height: float, *, margin: int = 0) -> Grid:
    """Make the grid of a detector `height` centimetres tall, `margin` pixels larger at each side."""
    spacing = height / rows
    y = (np.arange(-margin, rows + margin, dtype=np.float32) + np.float32(0.5)) * np.float32(spacing)
    x = (np.arange(-margin, columns + margin, dtype=np.float32) - np.float32((columns - 1) / 2)) * np.float32(spacing)
    return Grid(x[None, :], y[:, None], spacing)


def rotate(image: Field, degrees: float, margin: int) -> Field:
    """Return the image rotated clockwise about its middle, cropped by `margin` pixels at each side."""
    if degrees:
        image = np.asarray(PillowImage.fromarray(image).rotate(-degrees, PillowImage.Resampling.BILINEAR))
    rows, columns = image.shape
    return image[margin : rows - margin, margin : columns - margin]


def rotation_margin(degrees: float, shape: tuple[int, int]) -> int:
    """Return the margin in pixels that a rotation needs."""
    return int(np.ceil(np.hypot(*shape) / 2 * abs(np.sin(np.deg2rad(degrees)))))


def smoothstep(distance: Field, width: float) -> Field:
    """Smooth step: 0 for negative distances, 1 for positive ones, with a transition of `width` (cm)."""
    ramp = np.clip(distance / np.float32(2 * width) + np.float32(0.5), 0, 1)
    return np.asarray(ramp * ramp * (3 - 2 * ramp), dtype=np.float32)


def gaussian(distance: Field, width: float) -> Field:
    """Gaussian profile: 1 at distance 0."""
    return np.asarray(np.exp(np.float32(-0.5) * np.square(distance / np.float32(width))), dtype=np.float32)


def elliptic_radius(at: Grid, x: float, y: float, half_width: float, half_height: float, degrees: float = 0.0) -> Field:
    """Return the elliptic radius: 0 at the centre, 1 on the rim."""
    dx, dy = at.x - np.float32(x), at.y - np.float32(y)
    if not degrees:
        return np.asarray(np.sqrt(np.square(dx / np.float32(half_width)) + np.square(dy / np.float32(half_height))))
    angle = np.deg2rad(degrees)
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    along, across = dx * cos + dy * sin, dy * cos - dx * sin
    radius = np.sqrt(np.square(along / np.float32(half_width)) + np.square(across / np.float32(half_height)))
    return np.asarray(radius, dtype=np.float32)


def ellipsoid_profile(radius: Field, power: float = 2.0) -> Field:
    """Thickness profile of a body of elliptic radius `radius`: 1 at the centre, 0 from the rim outward."""
    raised = np.square(radius) if power == 2 else radius ** np.float32(power)
    return np.asarray(np.sqrt(np.clip(1 - raised, 0, 1)), dtype=np.float32)


def tube_profile(distance: Field, radius: float, wall: float) -> Field:
    """Thickness (cm) of the wall of a hollow tube in projection: bright edges, like cortical bone."""
    squared = np.square(distance, dtype=np.float32)
    outer = np.sqrt(np.clip(np.float32(radius * radius) - squared, 0, None))
    inner = np.sqrt(np.clip(np.float32((radius - wall) ** 2) - squared, 0, None))
    return np.asarray(2 * (outer - inner), dtype=np.float32)


def blur(image: Field, sigma: float) -> Field:
    """Gaussian blur; sigma in pixels. Edges are mirrored. A wide blur is computed on a reduced image: no fine structure remains."""
    factor = int(sigma / 2)
    if factor < 2:
        return np.asarray(ndimage.gaussian_filter(image, sigma, mode="reflect", truncate=3.0), dtype=np.float32)
    small = _average_blocks(image, factor)
    own = (
        np.sqrt(max(sigma * sigma - factor * factor / 3, 1.0)) / factor
    )  # averaging and interpolation contribute the remaining blur
    small = ndimage.gaussian_filter(small, own, mode="reflect", truncate=3.0)
    rows, columns = (
        _build_interpolation_matrix(length, factor, blocks) for length, blocks in zip(image.shape, small.shape, strict=True)
    )
    return np.asarray(rows @ small @ columns.T, dtype=np.float32)


def _average_blocks(image: Field, factor: int) -> Field:
    """Average blocks of factor x factor pixels; the last blocks are padded with the edge."""
    rows, columns = image.shape
    full = np.pad(image, ((0, -rows % factor), (0, -columns % factor)), mode="edge").astype(np.float32, copy=False)
    return np.asarray(full.reshape(full.shape[0] // factor, factor, -1, factor).mean(axis=(1, 3)), dtype=np.float32)


@lru_cache(maxsize=64)
def _build_interpolation_matrix(length: int, factor: int, blocks: int) -> npt.NDArray[np.float32]:
    """Return the matrix [length, blocks] of linear interpolation between block averages."""
    place = np.clip((np.arange(length) + 0.5) / factor - 0.5, 0, blocks - 1)
    low = np.minimum(place.astype(np.intp), max(blocks - 2, 0))
    share = (place - low).astype(np.float32)
    matrix = np.zeros((length, blocks), dtype=np.float32)
    matrix[np.arange(length), low] = 1 - share
    matrix[np.arange(length), np.minimum(low + 1, blocks - 1)] += share
    return matrix


def fractal_noise(at: Grid, rng: np.random.Generator, *, size: float, roughness: float = 1.0, octaves: int = 4) -> Field:
    """Noise of mean 0 and standard deviation 1 with patches of about `size` cm; the amplitude of octaves falls with `roughness`.

    The lattice is defined in centimetres: the same draw gives the same noise at any resolution, without unresolved octaves.
    """
    lattice_rng = np.random.default_rng(int(rng.integers(2**62)))
    total, power = at.zeros(), 0.0
    for octave in range(octaves):
        strength, pitch = 2.0 ** (-roughness * octave), 0.5 * size / 2**octave
        power += strength * strength
        if pitch < 1.5 * at.spacing:
            continue
        knots = int(np.ceil(LATTICE_SPAN / pitch))
        lattice = lattice_rng.standard_normal((knots, knots), dtype=np.float32)
        lattice *= np.float32(strength / SPLINE_SPREAD)
        total += _build_spline_matrix(at.y[:, 0], pitch, knots) @ lattice @ _build_spline_matrix(at.x[0], pitch, knots).T
    return total / np.float32(np.sqrt(power))


def _build_spline_matrix(position: Field, pitch: float, knots: int) -> npt.NDArray[np.float32]:
    """Return cubic B-spline weights [positions, knots] on a periodic lattice."""
    place = position.astype(np.float64) / pitch
    base = np.floor(place)
    t = (place - base).astype(np.float32)
    weights = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3)
    matrix = np.zeros((position.size, knots), dtype=np.float32)
    rows = np.arange(position.size)
    for offset, weight in enumerate(weights):
        matrix[rows, (base.astype(np.intp) + offset - 1) % knots] += weight / 6
    return matrix


def spline_path(points: Sequence[tuple[float, float]], count: int = 40) -> Field:
    """Return the Catmull-Rom spline [count, 2] through points (x, y in cm)."""
    knots = np.array([points[0], *points, points[-1]], dtype=np.float32)
    t = np.linspace(0, len(points) - 1 - 1e-4, count, dtype=np.float32)
    base = t.astype(np.intp)
    t = (t - base)[:, None]
    a, b, c, d = (knots[base + offset] for offset in range(4))
    path = 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
    return np.asarray(path, dtype=np.float32)


class Sheet:
    """Accumulator of ribbons and plates given in centimetres; thicknesses add where they overlap."""

    def __init__(self, at: Grid) -> None:
        self._at = at
        self._points: list[tuple[Field, Field, Field]] = []  # x, y in pixels, thickness of one pixel at that position
        self._plates: list[Field] = []

    def add(self, thickness: Field) -> None:
        """Add a field of thickness (cm)."""
        self._plates.append(thickness)

    def distance(self, x: float, y: float, power: float = 2.0) -> Field:
        """Return the distance of each pixel from a point, cm. With a higher power, equidistant lines are rounded squares."""
        across, down = np.abs(self._at.x - np.float32(x)), np.abs(self._at.y - np.float32(y))
        return np.asarray((across**power + down**power) ** np.float32(1 / power), dtype=np.float32)

    def add_ribbon(
        self, path: Field, half_width: Field | float, profile: Callable[[Field], Field], thickness: Field | float = 1.0
    ) -> None:
        """Add ribbons along paths [..., N, 2] (x, y in cm) or [..., N, 3] (and the depth along the beam).

        `half_width` and `thickness` (cm) are [..., N] or one number; `profile` gives the share of the thickness at u in -1..1
        across. A ribbon parallel to the beam is thicker.
        """
        spacing = self._at.spacing
        numbers = [np.broadcast_to(np.asarray(value, np.float32), path.shape[:-1])[..., None] for value in (half_width, thickness)]
        strand = _resample_strands(np.concatenate([path, *numbers], axis=-1).astype(np.float32), spacing)
        path, widths, depths = strand[..., :-2], strand[..., -2], strand[..., -1]
        along = np.gradient(path, axis=-2)
        length = np.maximum(np.hypot(along[..., 0], along[..., 1]), np.float32(1e-6))
        count = max(2, int(np.ceil(2 * float(widths.max()) / (RIBBON_SAMPLING * spacing))))
        u = ((np.arange(count, dtype=np.float32) + np.float32(0.5)) * np.float32(2 / count) - 1)[:, None]
        x = path[..., None, :, 0] - u * (widths * along[..., 1] / length)[..., None, :]
        y = path[..., None, :, 1] + u * (widths * along[..., 0] / length)[..., None, :]
        amount = depths * np.sqrt(np.square(along).sum(axis=-1)) * widths * np.float32(2 / count / spacing**2)
        self._collect_points(x, y, profile(u) * amount[..., None, :])

    def _collect_points(self, x: Field, y: Field, amount: Field) -> None:
        rows, columns = self._at.shape
        x = ((x - self._at.x[0, 0]) / np.float32(self._at.spacing)).ravel()
        y = ((y - self._at.y[0, 0]) / np.float32(self._at.spacing)).ravel()
        inside = (x > 0) & (x < columns - 1.001) & (y > 0) & (y < rows - 1.001)
        self._points.append((x[inside], y[inside], amount.ravel()[inside]))

    def render(self) -> Field:
        """Return the total thickness (cm)."""
        return np.asarray(sum(self._plates, self._sum_points()), dtype=np.float32)

    def _sum_points(self) -> Field:
        """Sum the points of all ribbons, each distributed over the four pixels around it."""
        if not self._points:
            return self._at.zeros()
        rows, columns = self._at.shape
        x, y, amount = (np.concatenate(parts) for parts in zip(*self._points, strict=True))
        left, top = x.astype(np.int32), y.astype(np.int32)
        x, y, corner = x - left, y - top, top * np.int32(columns) + left
        lower, upper = amount * y, amount * (1 - y)
        corners = np.concatenate([corner, corner + 1, corner + columns, corner + columns + 1])
        shares = np.concatenate([upper * (1 - x), upper * x, lower * (1 - x), lower * x])
        return np.bincount(corners, shares, rows * columns).astype(np.float32).reshape(rows, columns)


def _resample_strands(strand: Field, spacing: float) -> Field:
    """Interpolate strands [..., N, K] (x, y, ...) linearly so that no step of the longest one exceeds RIBBON_SAMPLING pixels."""
    steps = np.hypot(*np.moveaxis(np.diff(strand[..., :2], axis=-2), -1, 0))
    factor = max(1, int(np.ceil(float(steps.max(initial=0.0)) / (RIBBON_SAMPLING * spacing))))
    count = strand.shape[-2]
    place = np.linspace(0, count - 1, (count - 1) * factor + 1, dtype=np.float32)
    low = np.minimum(place.astype(np.intp), count - 2)
    share = (place - low)[:, None]
    return np.asarray(strand[..., low, :] * (1 - share) + strand[..., low + 1, :] * share, dtype=np.float32)
