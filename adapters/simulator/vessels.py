"""Lung vessels: trees that branch from both hila by Murray's law, grown one generation at a time."""

from __future__ import annotations

import numpy as np

from adapters.simulator.anatomy import SIDES, Body
from adapters.simulator.raster import Field, Grid, Sheet, ellipsoid_profile

MIN_RADIUS = 0.05
"""Radius (cm) below which a vessel is not traced: its shadow is part of the lung grain."""
THIN_RADIUS, THICK_RADIUS = 0.09, 0.15
"""Limits (cm) of the radius classes rendered together; thick vessels have no fine edges."""
ROOT_VESSELS = ((-75, 0.42), (-58, 0.36), (-35, 0.34), (-12, 0.38), (8, 0.36), (28, 0.42), (50, 0.52), (68, 0.58), (82, 0.40))
"""Vessels of each hilum: degrees below the horizontal, radius in cm. Lower vessels are wider, as in an upright patient."""
BLOOD_THICKNESS_FACTOR = 1.15
"""Thickness of water relative to the diameter of a vessel: wall and sheath add to the blood."""
LEFT_HILUM_RISE = 0.9
"""Height of the left hilum above the right, cm."""


def vessels(at: Grid, body: Body) -> Field:
    """Thickness of blood (cm) in the vessels of both lungs of a person."""
    paths, widths = _grow_trees(body)
    fine, coarse = Sheet(at), Sheet(at.downsampled())
    for low, high, sheet in ((0.0, THIN_RADIUS, fine), (THIN_RADIUS, THICK_RADIUS, fine), (THICK_RADIUS, 9.0, coarse)):
        part = (widths[:, 0] > low) & (widths[:, 0] <= high)
        if part.any():
            sheet.add_ribbon(paths[part], widths[part], ellipsoid_profile, 2 * BLOOD_THICKNESS_FACTOR * widths[part])
    return (fine.render() + at.upsample(coarse.render())) * np.float32(1 - body.vessel_loss)


def _grow_trees(body: Body) -> tuple[Field, Field]:
    """Return the segments of all vessels of both lungs: paths [N, 5, 2] and radii [N, 5], cm."""
    rng, count = np.random.default_rng([body.seed, 2]), len(ROOT_VESSELS)
    side = np.repeat(np.array(SIDES, dtype=np.float32), count)
    angle: Field = np.deg2rad(np.tile([degrees for degrees, _ in ROOT_VESSELS], 2) + rng.normal(0, 7, 2 * count))
    radius: Field = np.tile([radius for _, radius in ROOT_VESSELS], 2) * rng.uniform(0.8, 1.2, 2 * count)
    height = body.hilum - LEFT_HILUM_RISE * (side > 0)
    root = np.stack([side * (3.0 + 0.5 * np.cos(angle)) + body.mediastinal_shift, height + 1.2 * np.sin(angle)], axis=1)
    start: Field = root + rng.normal(0, 0.28, root.shape)
    centre: Field = np.stack([side * 2.6 + body.mediastinal_shift, height], axis=1)
    paths, widths = [], []
    while radius.size:
        path, bends, ends = _grow_generation(rng, start, angle, radius, side, centre)
        paths.append(path)
        widths.append(np.linspace(radius, ends, path.shape[1], axis=1))
        start, angle, radius, side, centre = _fork_vessels(rng, path[:, -1], bends, ends, side, centre)
    return np.concatenate(paths), np.concatenate(widths)


def _grow_generation(
    rng: np.random.Generator, start: Field, angle: Field, radius: Field, side: Field, centre: Field
) -> tuple[Field, Field, Field]:
    """Return bent vessel segments [N, 5, 2], their final directions [N] and radii [N]; thinner segments are shorter.

    A segment bends slightly toward the direction away from its hilum.
    """
    out = start - centre
    outward = np.arctan2(out[:, 1], out[:, 0] * side)
    pull = 0.25 * np.arctan2(np.sin(outward - angle), np.cos(outward - angle))
    length = (0.75 + 3.4 * radius) * rng.uniform(0.65, 1.35, radius.size)
    bends = (angle + pull)[:, None] + np.cumsum(rng.normal(0, 0.11, (radius.size, 4)), axis=1)
    steps = np.stack([side[:, None] * np.cos(bends), np.sin(bends)], axis=2) * (length / 4)[:, None, None]
    path = np.concatenate([start[:, None], start[:, None] + np.cumsum(steps, axis=1)], axis=1)
    return path.astype(np.float32), bends[:, -1], 0.93 * radius


def _fork_vessels(
    rng: np.random.Generator, end: Field, angle: Field, radius: Field, side: Field, centre: Field
) -> tuple[Field, Field, Field, Field, Field]:
    """Return start, angle, radius, side and hilum of the two children of each segment; invisibly thin ones are dropped."""
    share = rng.uniform(0.3, 0.7, radius.size)
    turn = rng.uniform(0.15, 0.6, (2, radius.size))
    thinner = np.concatenate([radius * share ** (1 / 3), radius * (1 - share) ** (1 / 3)]) * 0.93
    aside = np.concatenate([angle + turn[0] * (1 - share), angle - turn[1] * share])
    kept = thinner > MIN_RADIUS
    return np.tile(end, (2, 1))[kept], aside[kept], thinner[kept], np.tile(side, 2)[kept], np.tile(centre, (2, 1))[kept]
