"""Detector and processing: scatter, blur, noise, logarithm, edge enhancement, display curve, shutters, markers."""

from __future__ import annotations

import numpy as np
from PIL import Image as PillowImage
from PIL import ImageDraw, ImageFont

from adapters.simulator.exposure import Exposure
from adapters.simulator.raster import Field, Grid, blur, smoothstep

ATTENUATION_COEFFICIENT = 0.16
"""Attenuation per cm of water at chest energies, after the grid."""
REFERENCE_PITCH = 38.0 / 512
"""Pixel pitch (cm) for which the noise strength is stated; a larger pixel counts more quanta."""
WHITE_THICKNESS_RANGE = (12.0, 27.0)
"""Range of the thickness of water (cm) that automatic exposure displays white."""
SCATTER_SIGMA = 3.0
"""Sigma of scattered radiation, cm."""
GRID_PITCH = 0.21
"""Period of the beat between anti-scatter grid and pixels, cm."""

MARKER_POSITIONS = {"top": (0.05, 0.12), "side": (0.22, 0.5), "bottom": (0.78, 0.90)}
"""Vertical range of markers, as shares of the field height."""


def develop_film(thickness: Field, detector: Grid, exposure: Exposure, rng: np.random.Generator) -> Field:
    """Expose, read out, process and mark a film. Returns float32 [H, W] in 0..1, bone bright."""
    measured = _read_detector(thickness, detector, exposure, rng)
    measured += np.float32(exposure.edge_strength) * (measured - blur(measured, exposure.edge_scale / detector.spacing))
    white = np.clip(np.percentile(measured[::4, ::4], 99.0), *WHITE_THICKNESS_RANGE) * exposure.white
    level = np.clip((measured - np.float32(exposure.black)) / np.float32(white - exposure.black), 0, 1)
    film = _apply_shutters(_apply_display_curve(level, exposure), detector, exposure)
    return _burn_in_marker(film, detector, exposure, rng)


def _read_detector(thickness: Field, detector: Grid, exposure: Exposure, rng: np.random.Generator) -> Field:
    """Return the thickness of water (cm) measured by the detector."""
    signal = np.exp(np.float32(-ATTENUATION_COEFFICIENT) * thickness)
    if exposure.cut_off:
        signal *= 1 + np.float32(exposure.cut_off) * detector.x / np.abs(detector.x).max()
    fog = blur(signal, SCATTER_SIGMA / detector.spacing)
    signal = blur(signal, exposure.blur / detector.spacing) + np.float32(exposure.scatter) * fog
    average = np.float32(np.exp(-ATTENUATION_COEFFICIENT * 14))
    strength = np.float32(exposure.noise * REFERENCE_PITCH / detector.spacing)
    signal *= 1 + strength * rng.standard_normal(signal.shape, dtype=np.float32) * np.sqrt(average / signal)
    if exposure.grid_lines:
        signal *= 1 + np.float32(exposure.grid_lines) * np.sin(detector.x * np.float32(2 * np.pi / GRID_PITCH))
    return np.asarray(-np.log(np.maximum(signal, np.float32(1e-4))) / np.float32(ATTENUATION_COEFFICIENT))


def _apply_display_curve(level: Field, exposure: Exposure) -> Field:
    """Apply the display curve to levels in 0..1."""
    strength = np.float32(exposure.contrast)
    if exposure.curve == "gamma":
        return np.asarray(level**strength)
    middle = np.float32(0.55)
    low, high = np.tanh(-strength * middle), np.tanh(strength * (1 - middle))
    return np.asarray((np.tanh(strength * (level - middle)) - low) / (high - low), dtype=np.float32)


def _apply_shutters(film: Field, detector: Grid, exposure: Exposure) -> Field:
    if not any(exposure.shutters):
        return film
    left, right, top, bottom = (np.float32(width) for width in exposure.shutters)
    half, height = np.abs(detector.x).max(), detector.y.max()
    across = np.minimum(half + detector.x - left, half - detector.x - right)
    down = np.minimum(detector.y - top, height - detector.y - bottom)
    inside = smoothstep(across, 0.06) * smoothstep(down, 0.06)
    return np.asarray(film * inside + (1 - inside) * np.float32(0.97 if exposure.border == "white" else 0.0))


def _burn_in_marker(film: Field, detector: Grid, exposure: Exposure, rng: np.random.Generator) -> Field:
    """Burn in the side marker and, on a portable film, its text."""
    marker = exposure.marker
    if marker is None:
        return film
    rows, columns = film.shape
    size = marker.height / detector.spacing
    sheet = PillowImage.new("L", (columns, rows))
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=max(5.0, size))
    right = marker.letter == "L"  # the patient's left is at the right of the image
    left_edge, right_edge, top_edge, bottom_edge = (edge / detector.spacing for edge in exposure.shutters)
    inward = size + columns * rng.uniform(0.01, 0.06)
    x = columns - right_edge - inward if right else left_edge + inward
    y = top_edge + rng.uniform(*MARKER_POSITIONS[marker.position]) * (rows - top_edge - bottom_edge)
    _draw_letter(pen, font, (x, y), size, marker.letter, marker.style)
    text = " ".join(word for word in (marker.word, marker.portable_word if exposure.view == "AP" else "") if word)
    small = ImageFont.load_default(size=max(5.0, 0.6 * size))
    pen.text((x, y + 1.1 * size), text, fill=255, font=small, anchor="rt" if right else "lt")
    ink = np.asarray(sheet, dtype=np.float32) * np.float32(rng.uniform(*marker.brightness) / 255)
    return np.asarray(np.maximum(film, ink))


def _draw_letter(
    pen: ImageDraw.ImageDraw,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    at: tuple[float, float],
    size: float,
    letter: str,
    style: str,
) -> None:
    x, y = at
    frame = (x - 0.75 * size, y - 0.75 * size, x + 0.75 * size, y + 0.75 * size)
    line = max(1, round(size / 12))
    if style == "disc":
        pen.ellipse(frame, fill=255)
    elif style == "ring":
        pen.ellipse(frame, outline=255, width=line)
    elif style == "box":
        pen.rectangle(frame, outline=255, width=line)
    pen.text((x, y), letter, fill=0 if style == "disc" else 255, font=font, anchor="mm")
