"""The vessels of the lungs: trees that branch from both hila by Murray's law, drawn a generation at a time."""

from __future__ import annotations

import numpy as np

from adapters.hospital.anatomy import SIDES, Body
from adapters.hospital.raster import Field, Grid, ball, bump, ellipse, ribbon

THINNEST = 0.055
"""Radius (cm) below which a vessel is not followed: its shadow is part of the lungs' grain."""
ROOTS = 9
"""Arteries and veins that leave each hilum."""
BLOOD = 1.5
"""Thickness of blood in a vessel relative to its diameter, as the air it displaces shows it."""


def vessels(at: Grid, body: Body) -> Field:
    """Thickness of blood (cm) in the vessels of both lungs of a person."""
    chance = np.random.default_rng([body.seed, 2])
    middle = body.apex + 0.52 * (body.dome - body.apex)
    side = np.repeat(np.array(SIDES, dtype=np.float32), ROOTS)
    angle: Field = np.tile(np.linspace(-1.35, 1.4, ROOTS), 2) + chance.normal(0, 0.1, 2 * ROOTS)
    start: Field = np.stack([side * chance.uniform(3.0, 3.9, 2 * ROOTS), middle + chance.normal(0.6 * angle, 0.5)], axis=1)
    radius: Field = chance.uniform(0.22, 0.42, 2 * ROOTS)
    blood = sum((1.3 * bump(ellipse(at, s * 3.9, middle + 0.3, 1.1, 1.9, 20 * s), 0.8) for s in SIDES), at.zeros())
    while radius.size:
        path, bends, ends = _generation(chance, start, angle, radius, side)
        width = np.linspace(radius, ends, path.shape[1], axis=1)
        blood += ribbon(at, path, width, ball, 2 * BLOOD * width)
        start, angle, radius, side = _forked(chance, path[:, -1], bends, ends, side)
    return blood


def _generation(chance: np.random.Generator, start: Field, angle: Field, radius: Field, side: Field) -> tuple[Field, Field, Field]:
    """Return gently bent pieces of vessel [N, 5, 2], their last directions [N] and last radii [N]; thinner ones are shorter."""
    length = (0.9 + 3.6 * radius) * chance.uniform(0.7, 1.3, radius.size)
    bends = angle[:, None] + np.cumsum(chance.normal(0, 0.09, (radius.size, 4)), axis=1)
    steps = np.stack([side[:, None] * np.cos(bends), np.sin(bends)], axis=2) * (length / 4)[:, None, None]
    path = np.concatenate([start[:, None], start[:, None] + np.cumsum(steps, axis=1)], axis=1)
    return path.astype(np.float32), bends[:, -1], 0.94 * radius


def _forked(chance: np.random.Generator, end: Field, angle: Field, radius: Field, side: Field) -> tuple[Field, Field, Field, Field]:
    """Return start, angle, radius and side of the two children of each piece; those too thin to see are dropped."""
    share = chance.uniform(0.35, 0.6, radius.size)
    turn = chance.uniform(0.12, 0.5, (2, radius.size))
    thinner = np.concatenate([radius * share ** (1 / 3), radius * (1 - share) ** (1 / 3)]) * 0.92
    aside = np.concatenate([angle + turn[0], angle - turn[1]])
    kept = thinner > THINNEST
    return np.tile(end, (2, 1))[kept], aside[kept], thinner[kept], np.tile(side, 2)[kept]
