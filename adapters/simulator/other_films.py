"""Films other than frontal chest films: lateral chest, knee, hand, abdomen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from adapters.simulator.anatomy import Body, draw_body
from adapters.simulator.exposure import Exposure, draw_exposure
from adapters.simulator.phantom import BONE_ATTENUATION, DEFAULT_SITE, FILM_HEIGHT, RadiographyTable, SimulatedFilm
from adapters.simulator.raster import (
    Field,
    Grid,
    Sheet,
    ellipsoid_profile,
    elliptic_radius,
    fractal_noise,
    gaussian,
    smoothstep,
    spline_path,
    tube_profile,
)
from adapters.simulator.sites import Site

KNEE_HEIGHT, HAND_HEIGHT = 30.0, 24.0
"""Heights of the detectors, cm."""


def _prepare_table(
    rng: np.random.Generator, site: Site | None, size: tuple[int, int], height: float = FILM_HEIGHT, thin: float = 1.0
) -> tuple[Exposure, RadiographyTable]:
    """Draw an exposure and prepare its table. `thin`: thickness relative to a chest."""
    exposure = draw_exposure(rng, "PA", site or DEFAULT_SITE)
    exposure = replace(exposure, white=thin * exposure.white, black=min(exposure.black, thin), devices=())
    return exposure, RadiographyTable(exposure, size, height=height)


def lateral(seed: int, *, body: Body | None = None, size: tuple[int, int] = (512, 512), site: Site | None = None) -> SimulatedFilm:
    """Take a left lateral film of a healthy chest: spine at the right, heart in front, two domes."""
    body = body or draw_body(np.random.default_rng([seed, 0]))
    rng = np.random.default_rng([seed, 4])
    exposure, table = _prepare_table(rng, site, size)
    at = table.at
    front = at.x + 8.6 + 2.0 * gaussian(at.y - 24, 9) + 0.5 * body.breast * gaussian(at.y - body.dome + 2, 4)
    back = 11.0 + 1.2 * gaussian(at.y - 13, 7) - at.x
    neck = smoothstep(np.minimum(front - 4.2, back - 3.0) + 9 * smoothstep(at.y - 5.0, 4.0), 0.5)
    flesh = (24 + 3 * smoothstep(at.y - body.dome, 6)) * np.sqrt(np.clip(np.minimum(front, back) / 5.0, 0, 1)) * neck
    arms = 9 * smoothstep(7.5 - at.y - 0.25 * np.abs(at.x), 2.5) * smoothstep(front, 3)
    inner = np.minimum(front - 2.3, back - 3.4 - 0.8 * gaussian(at.y - 14, 6))
    roof = at.y - body.apex - 0.05 * np.square(at.x - 2.0)
    lungs = 18.5 * np.clip(1 - np.exp(-np.clip(inner, 0, None) / 1.6), 0, 1) * smoothstep(roof, 0.6)
    top = body.dome - 1.0 - 1.2 * gaussian(at.x + 3.0, 5.0) + 0.045 * np.square(np.clip(at.x + 1, 0, None))
    domes = 0.5 * (smoothstep(top - at.y, 0.16) + smoothstep(top + body.left_lower + 0.4 - at.y, 0.16))
    middle = body.dome - 5.2
    heart = 9.0 * ellipsoid_profile(np.clip(elliptic_radius(at, -4.2, middle, 0.38 * body.heart_left + 1.7, 6.2, 40), 0, 1), 1.6)
    arch = 4.0 * gaussian(elliptic_radius(at, 1.2, 11.8, 2.4, 2.6) - 0.8, 0.28) * smoothstep(14.5 - at.y, 2)
    hila = 3.0 * gaussian(elliptic_radius(at, 0.6, body.hilum, 1.4, 1.9), 0.8)
    windpipe = 1.8 * smoothstep(0.85 - np.abs(at.x - 0.6 - 0.16 * (at.y - 6)), 0.25) * smoothstep(13.6 - at.y, 0.8)
    grain = 1 + 0.02 * fractal_noise(at, rng, size=2.0, octaves=4, roughness=0.6)
    soft = (
        np.maximum(flesh, arms)
        - np.clip(lungs * domes - heart - arch - hila, 0, None) * grain
        - windpipe * smoothstep(flesh - 5, 4)
    )
    bone = _render_lateral_bones(at, body)
    return SimulatedFilm(table.take_film(np.clip(soft, 0, None) + np.float32(BONE_ATTENUATION) * bone, rng), body, exposure)


def _render_lateral_bones(at: Grid, body: Body) -> Field:
    column = at.x - 7.4 - 1.6 * np.sin((at.y - 5) * 0.11)
    pitch = 2.0 + 0.02 * at.y
    phase = np.mod(at.y / pitch, 1.0)
    bodies = smoothstep(1.45 - np.abs(column), 0.2) * (0.45 + 0.55 * smoothstep(np.minimum(phase, 1 - phase) - 0.09, 0.05))
    rims = 0.5 * (gaussian(phase - 0.12, 0.04) + gaussian(phase - 0.88, 0.04)) * smoothstep(1.45 - np.abs(column), 0.15)
    arches = 0.8 * gaussian(column - 2.6, 0.6) * gaussian((phase - 0.5) * pitch, 0.6)
    sheet = Sheet(at)
    along = np.linspace(0, 1, 30)
    for number in range(10):
        y = body.apex + 1.5 + number * (body.dome + 3 - body.apex) / 10
        path = spline_path([(9.4, y), (3.0, y + 2.6), (-3.5, y + 5.4), (-8.0, y + 6.6)], 30)
        sheet.add_ribbon(
            path, 0.62, lambda u: tube_profile(u, 1.0, 0.25), 0.42 * np.interp(along, [0, 0.1, 0.75, 1], [0.6, 1, 0.8, 0.0])
        )
    sheet.add_ribbon(spline_path([(-7.9, 8.5), (-8.4, 13.0), (-9.2, 19.5)], 20), 0.55, lambda u: tube_profile(u, 1.0, 0.3), 0.9)
    return (2.2 * bodies + rims + arches + sheet.render()) * np.float32(body.bone_density)


def knee(seed: int, *, size: tuple[int, int] = (512, 512), site: Site | None = None) -> SimulatedFilm:
    """Take a frontal film of a knee."""
    rng = np.random.default_rng([seed, 5])
    exposure, table = _prepare_table(rng, site, size, KNEE_HEIGHT)
    at = table.at
    flesh = 11 * ellipsoid_profile(np.clip(np.abs(at.x) / (6.2 + 0.7 * np.cos(at.y * 0.25)), 0, 1))
    half = 1.55 + 2.6 * gaussian(at.y - 15.2, 2.6)
    shaft = np.abs(at.x) / half
    joint = smoothstep(np.abs(at.y - 15.2 - 0.35 * gaussian(at.x, 0.8)) - 0.25, 0.08)
    marrow = (1.3 + 1.1 * gaussian(at.y - 15.2, 3)) * ellipsoid_profile(np.clip(shaft, 0, 1))
    cortex = 1.6 * gaussian(shaft - 0.86, 0.09) * smoothstep(np.abs(at.y - 15.2) - 2.5, 2)
    fibula = 1.2 * tube_profile(at.x - 3.9 - 0.02 * at.y, 0.75, 0.3) * smoothstep(at.y - 18.3, 0.5)
    patella = 1.0 * ellipsoid_profile(np.clip(elliptic_radius(at, 0.2, 12.4, 2.1, 2.2), 0, 1))
    bone = ((marrow + cortex) * joint + fibula + patella) * (1 + 0.05 * fractal_noise(at, rng, size=0.35))
    return SimulatedFilm(table.take_film(flesh + np.float32(BONE_ATTENUATION) * bone, rng), None, exposure, height=KNEE_HEIGHT)


FINGERS = (
    (-5.2, 11.6, (3.2, 2.6)),
    (-2.6, 9.0, (4.0, 2.6, 1.8)),
    (-0.4, 8.4, (4.5, 3.0, 2.0)),
    (1.9, 9.0, (4.2, 2.8, 1.9)),
    (4.0, 10.4, (3.2, 2.0, 1.7)),
)
"""Thumb to little finger: x and y of the knuckle (cm) and the lengths of the phalanges."""


def hand(seed: int, *, size: tuple[int, int] = (512, 512), site: Site | None = None) -> SimulatedFilm:
    """Take a postero-anterior film of a hand."""
    rng = np.random.default_rng([seed, 7])
    exposure, table = _prepare_table(rng, site, size, HAND_HEIGHT, thin=0.4)
    flesh, bones = Sheet(table.at), Sheet(table.at)
    for x, y, lengths in FINGERS:
        lean = 0.16 * x + float(rng.normal(0, 0.03))
        tip_y = y - sum(lengths) + 1.0
        flesh.add_ribbon(
            spline_path([(0.45 * x, 16.0), (x, y), (x + lean * 2.2, tip_y)], 30), np.linspace(1.5, 0.8, 30), ellipsoid_profile, 1.6
        )
        _draw_long_bone(bones, (0.32 * x, 15.2), (x, y), 0.62)
        here, down = x, y
        for length in lengths:
            there = here + lean * 0.22 * length
            _draw_long_bone(bones, (here, down - 0.15), (there, down - length + 0.15), 0.5)
            here, down = there, down - length
    palm = elliptic_radius(table.at, -0.2, 13.5, 5.2, 5.4)
    wrist = smoothstep(3.2 - np.abs(table.at.x), 0.6) * smoothstep(table.at.y - 14.5, 1.0)
    soft = np.maximum(np.maximum(2.6 * ellipsoid_profile(np.clip(palm, 0, 1), 4), 3.4 * wrist), np.clip(flesh.render(), 0, 1.8))
    for column in range(4):
        for row in range(2):
            stone = elliptic_radius(
                table.at, -1.8 + 1.2 * column, 15.9 + 1.1 * row + 0.2 * abs(column - 1.5), 0.62, 0.6, 20 * column
            )
            bones.add(0.7 * ellipsoid_profile(np.clip(stone, 0, 1)) + 0.25 * gaussian(stone - 0.92, 0.06))
    _draw_long_bone(bones, (-1.5, 18.2), (-1.6, 27.0), 1.1)
    _draw_long_bone(bones, (1.6, 18.6), (1.7, 27.0), 0.75)
    return SimulatedFilm(
        table.take_film(soft + np.float32(BONE_ATTENUATION) * bones.render(), rng), None, exposure, height=HAND_HEIGHT
    )


def _draw_long_bone(sheet: Sheet, start: tuple[float, float], end: tuple[float, float], half: float) -> None:
    """Draw a long bone between two joints, wider at its ends."""
    along = np.linspace(0, 1, 20)
    waist = np.interp(along, [0, 0.12, 0.3, 0.75, 0.92, 1], [0.9, 1.0, 0.68, 0.66, 0.95, 0.7])
    path = np.stack([np.interp(along, [0, 1], [a, b]) for a, b in zip(start, end, strict=True)], axis=1)
    sheet.add_ribbon(path, half * waist, lambda u: tube_profile(u, 1.0, 0.3) * 0.5 + 0.3 * ellipsoid_profile(np.abs(u)), 1.3 * half)


def abdomen(seed: int, *, size: tuple[int, int] = (512, 512), site: Site | None = None) -> SimulatedFilm:
    """Take a frontal film of an abdomen: bowel gas, lumbar spine, pelvis."""
    rng = np.random.default_rng([seed, 8])
    exposure, table = _prepare_table(rng, site, size)
    at = table.at
    flesh = (
        19
        * ellipsoid_profile(np.clip(np.abs(at.x) / (15.0 - 1.2 * gaussian(at.y - 16, 7)), 0, 1), 2.5)
        * (1 + 0.02 * fractal_noise(at, rng, size=4))
    )
    liver = 2.0 * smoothstep(1 - elliptic_radius(at, -7.0, 5.0, 8.0, 8.5, -20), 0.3)
    for _ in range(int(rng.integers(8, 18))):
        x, y = float(rng.uniform(-11, 11)), float(rng.uniform(9, 30))
        loop = elliptic_radius(at, x, y, float(rng.uniform(1.0, 2.8)), float(rng.uniform(0.8, 1.8)), float(rng.uniform(-80, 80)))
        flesh -= float(rng.uniform(0.8, 3.0)) * ellipsoid_profile(np.clip(loop, 0, 1))
    phase = np.mod(at.y / 3.4, 1.0)
    rim = 2.2 - np.abs(at.x)
    column = smoothstep(rim, 0.2) * (0.5 + 0.5 * smoothstep(np.minimum(phase, 1 - phase) - 0.09, 0.05)) * smoothstep(27 - at.y, 0.5)
    wings = [elliptic_radius(at, side * 8.0, 26.0, 4.6, 6.6, -24 * side) for side in (-1, 1)]
    pelvis = sum(
        (0.9 * ellipsoid_profile(np.clip(wing, 0, 1), 6) + 0.3 * gaussian(wing - 0.96, 0.05) for wing in wings), at.zeros()
    )
    hips = sum(
        (1.6 * ellipsoid_profile(np.clip(elliptic_radius(at, side * 8.6, 34.5, 2.4, 2.4), 0, 1)) for side in (-1, 1)), at.zeros()
    )
    sacrum = 1.2 * smoothstep(1 - elliptic_radius(at, 0, 29.0, 3.6, 4.2), 0.15)
    psoas = 0.8 * smoothstep(1.5 + 0.22 * (at.y - 8) - np.abs(at.x), 0.4) * smoothstep(at.y - 8, 1) * smoothstep(27 - at.y, 2)
    bone = 1.3 * column + pelvis + hips + sacrum
    return SimulatedFilm(
        table.take_film(np.clip(flesh + liver + psoas, 0, None) + np.float32(BONE_ATTENUATION) * bone, rng), None, exposure
    )


OTHER_REGION_FILMS: Mapping[str, Callable[..., SimulatedFilm]] = {"KNEE": knee, "HAND": hand, "ABDOMEN": abdomen}
"""Films of other regions by their name in `header.REGIONS`: (seed, *, size, site) -> SimulatedFilm."""
