"""Films that are no frontal chest: a lateral, and a knee for what is no chest at all."""

from __future__ import annotations

import numpy as np

from adapters.hospital.anatomy import Body, person
from adapters.hospital.exposure import exposure
from adapters.hospital.phantom import BONE, DEFAULT_SITE, Film, Table
from adapters.hospital.raster import Field, Grid, ball, bump, cloud, ellipse, step, tube
from adapters.hospital.sites import Site


def lateral(seed: int, *, body: Body | None = None, size: tuple[int, int] = (512, 512), site: Site | None = None) -> Film:
    """Take a left lateral chest film: spine behind (right), heart in front, two domes."""
    body = body or person(np.random.default_rng([seed, 0]))
    chance = np.random.default_rng([seed, 4])
    taken = exposure(chance, "PA", site or DEFAULT_SITE)
    table = Table(taken, size)
    at = table.at
    flesh = 27 * ball(np.clip(ellipse(at, 0, 26, 13.5, 27), 0, 1), 3) * step(at.y - 3, 3)
    chest = ball(np.clip(ellipse(at, 0.4, 18, 10.6, 14.5, -6), 0, 1), 5) * step(at.y - 5, 1)
    domes = sum(0.5 * step(24.5 + n - 0.2 * at.x + 0.045 * np.square(at.x + 3) - at.y, 0.15) for n in (0.0, 1.4))
    heart = 9 * ball(np.clip(ellipse(at, -4.6, 21.5, 4.8, 5.6, 35), 0, 1))
    hila = 2.5 * bump(ellipse(at, 0.6, 15.0, 1.5, 2.0), 0.9)
    soft = (
        flesh
        - 19.5 * chest * domes
        + heart * chest * domes
        + hila
        - 1.6 * step(0.9 - np.abs(at.x - 1 - 0.1 * at.y), 0.2) * step(13 - at.y, 1)
    )
    bone = _side_bones(at, body)
    return Film(table.film(np.clip(soft, 0, None) + np.float32(BONE) * bone, chance), body, taken)


def _side_bones(at: Grid, body: Body) -> Field:
    column = at.x - 7.6 - 1.8 * np.sin((at.y - 6) * 0.1)
    phase = np.mod(at.y / 2.3, 1.0)
    vertebrae = 3.2 * step(1.6 - np.abs(column), 0.15) * (0.4 + 0.6 * step(np.minimum(phase, 1 - phase) - 0.1, 0.03))
    rings = at.zeros()
    for number in range(10):
        course = at.y - 6.5 - 2.2 * number + 0.32 * (at.x - 8) + 0.02 * np.square(at.x)
        rings += 0.7 * tube(course / 1.06, 0.6, 0.13) * step(10.5 - np.abs(at.x), 0.8)
    sternum = 0.9 * step(0.6 - np.abs(at.x + 10.6 + 0.16 * (18 - at.y)), 0.2) * step(6 - np.abs(at.y - 14), 0.6)
    return (vertebrae + rings + sternum) * np.float32(body.bone)


def knee(seed: int, *, size: tuple[int, int] = (512, 512), site: Site | None = None) -> Film:
    """Take a frontal film of a knee: what is no chest."""
    chance = np.random.default_rng([seed, 5])
    taken = exposure(chance, "PA", site or DEFAULT_SITE)
    table = Table(taken, size, height=30.0)
    at = table.at
    flesh = 11 * ball(np.clip(np.abs(at.x) / (6.2 + 0.7 * np.cos(at.y * 0.25)), 0, 1))
    flare = 2.6 * bump(at.y - 15.2, 2.6)
    half = 1.55 + flare
    shaft = np.clip(np.abs(at.x), 0, None) / half
    joint = step(np.abs(at.y - 15.2 - 0.35 * bump(at.x, 0.8)) - 0.25, 0.08)
    marrow = (1.3 + 1.1 * bump(at.y - 15.2, 3)) * ball(np.clip(shaft, 0, 1))
    cortex = 1.6 * bump(shaft - 0.86, 0.09) * step(np.abs(at.y - 15.2) - 2.5, 2)
    fibula = 1.2 * tube(at.x - 3.9 - 0.02 * at.y, 0.75, 0.3) * step(at.y - 18.3, 0.5)
    patella = 1.0 * ball(np.clip(ellipse(at, 0.2, 12.4, 2.1, 2.2), 0, 1))
    bone = ((marrow + cortex) * joint + fibula + patella) * (1 + 0.05 * cloud(at, chance, size=0.35))
    return Film(table.film(flesh + np.float32(BONE) * bone, chance), None, taken)
