"""Findings of a phantom: their effect on the body before the exposure, and on air and water along the beam.

Simplified from the appearance of these findings on frontal films (Hansell et al., Fleischner Society glossary, Radiology
2008;246:697).
`extent` is 0..1, from barely visible to gross. Some findings resemble each other, as in reality: infiltration, pneumonia and
consolidation differ in density and number, a nodule and a mass in size (3 cm).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from adapters.simulator.anatomy import SIDES, Body, diaphragm, rib_cage_half_width
from adapters.simulator.raster import (
    Field,
    Grid,
    Sheet,
    blur,
    ellipsoid_profile,
    elliptic_radius,
    fractal_noise,
    gaussian,
    smoothstep,
    spline_path,
)

RandomGenerator = np.random.Generator


@dataclass(slots=True)
class ChestScene:
    """Tissue along the beam in the lungs. Findings change it in place."""

    at: Grid
    body: Body
    view: str
    rng: RandomGenerator  # of the finding being added
    air: dict[int, Field]  # side -> thickness of air, cm
    heart: Field  # share of the depth of the lungs filled by heart and great vessels
    vessels: Field  # thickness of blood in the lungs' vessels, cm
    water: Field  # thickness of added solid or liquid matter, cm
    pneumothorax_side: int | None = None

    def draw_position(self, side: int, low: float, high: float, inner: float = 0.45, outer: float = 0.88) -> tuple[float, float]:
        """Draw a point (x, y in cm) in one lung; `low`, `high`: shares of its height, `inner`, `outer`: of its width."""
        y = self.body.apex + 1 + float(self.rng.uniform(low, high)) * (self.body.dome - self.body.apex - 1.5)
        edge = float(rib_cage_half_width(np.array([y], dtype=np.float32), self.body)[0])
        return side * edge * float(self.rng.uniform(inner, outer)), y

    def fill_air(self, side: int, share: Field) -> None:
        """Replace a share (0..1) of the air of one lung by water; vessels inside it become invisible."""
        self.water += self.air[side] * (1 - self.heart) * share
        self.vessels *= 1 - np.clip(share, 0, 1)

    def lung_mask(self) -> Field:
        """Mask of the lungs, 0..1."""
        return smoothstep(self.air[-1] + self.air[1] - 1.5, 1.0) * (1 - self.heart)


def _draw_side(rng: RandomGenerator) -> int:
    return int(rng.choice(SIDES))


def _draw_sides(rng: RandomGenerator, both: float) -> tuple[int, ...]:
    """Draw one side, or both with probability `both`."""
    side = _draw_side(rng)
    return SIDES if rng.random() < both else (side,)


def _raise_diaphragm(body: Body, side: int, height: float) -> tuple[float, float]:
    right, left = body.diaphragm_lift
    return (right + height, left) if side < 0 else (right, left + height)


# --- findings that change the body


def _enlarge_heart(body: Body, extent: float, rng: RandomGenerator) -> Body:
    grown = 1.08 + 0.40 * extent
    return replace(
        body,
        heart_left=min(body.heart_left * grown, body.half_width * 0.95),
        heart_right=body.heart_right * (1.03 + 0.35 * extent * float(rng.uniform(0.5, 1.2))),
        heart_top=body.heart_top - 0.8 * extent,
    )


def _inflate_lungs(body: Body, extent: float, rng: RandomGenerator) -> Body:
    return replace(
        body,
        dome=body.dome + 0.6 + 2.6 * extent,
        doming=body.doming * (0.92 - 0.6 * extent),
        lung_depth=body.lung_depth + 0.7 + 2.4 * extent,
        heart_left=body.heart_left * (0.97 - 0.2 * extent),
        rib_slope=body.rib_slope * (0.98 - 0.16 * extent),
        vessel_loss=0.08 + 0.45 * extent,
    )


def _collapse_lobe(body: Body, extent: float, rng: RandomGenerator) -> Body:
    """Loss of volume: raise the diaphragm and pull the mediastinum to the side of the collapse."""
    side, kind = _draw_side(rng), rng.random()
    loss = extent * (0.5 if kind < PLATE_SHARE else 1.0)
    shift = body.mediastinal_shift + side * 0.9 * loss
    return replace(body, diaphragm_lift=_raise_diaphragm(body, side, 2.4 * loss), mediastinal_shift=shift)


def _shrink_lungs(body: Body, extent: float, rng: RandomGenerator) -> Body:
    both = _raise_diaphragm(replace(body, diaphragm_lift=_raise_diaphragm(body, -1, 1.2 * extent)), 1, 1.2 * extent)
    return replace(body, diaphragm_lift=both, lung_depth=body.lung_depth - 1.2 * extent)


def _build_mediastinal_push(least: float, far: float) -> Callable[[Body, float, RandomGenerator], Body]:
    """Return a body change: above extent `least`, the mediastinum is pushed up to `far` cm to the other side."""

    def pushed(body: Body, extent: float, rng: RandomGenerator) -> Body:
        push = far * max(0.0, extent - least) / (1 - least)
        return replace(body, mediastinal_shift=body.mediastinal_shift - _draw_side(rng) * push)

    return pushed


# --- findings that change the lungs

PLATE_SHARE = 0.55
"""Share of plate atelectases; the others are a partial collapse of a lower lobe."""


def _add_atelectasis(scene: ChestScene, extent: float) -> None:
    rng = scene.rng
    side, kind = _draw_side(rng), rng.random()
    if kind < PLATE_SHARE:
        plates = Sheet(scene.at)
        for _ in range(int(rng.integers(1, 4))):
            x, y = scene.draw_position(side, 0.66, 0.97)
            half, tilt = 1.6 + 2.6 * extent, float(rng.normal(0, 0.22))
            path = spline_path([(x - half, y + half * tilt), (x, y + float(rng.normal(0, 0.15))), (x + half, y - half * tilt)], 24)
            taper = np.sin(np.linspace(0.15, np.pi - 0.15, 24))
            plates.add_ribbon(path, (0.14 + 0.26 * extent) * taper, ellipsoid_profile, (1.2 + 2.6 * extent) * taper)
        scene.water += plates.render() * scene.lung_mask()
        return
    out, low = scene.at.x * side, diaphragm(scene.at, scene.body, side) - scene.at.y
    reach = 3.0 + 4.5 * extent  # a wedge that leans on spine and diaphragm
    wedge = smoothstep(reach * (0.55 + 0.45 * np.clip(1 - low / 9, 0, 1)) + 1.5 - out, 0.8) * smoothstep(
        5.0 + 4.0 * extent - low, 2.0
    )
    scene.fill_air(side, wedge * np.float32(0.22 + 0.45 * extent))
    scene.water += (1.0 + 2.5 * extent) * wedge * scene.heart * smoothstep(out - 1.0, 0.5)  # visible through the heart


def _add_effusion(scene: ChestScene, extent: float) -> None:
    rng = scene.rng
    first = _draw_side(rng)
    supine = scene.view == "AP" and rng.random() < 0.6
    for side in (first, -first) if rng.random() < 0.3 else (first,):
        amount = extent * (1.0 if side == first else float(rng.uniform(0.4, 0.9)))
        level = scene.body.dome + 3.6 - (1.2 + 10.5 * (0.5 * amount if supine else amount))
        out = np.abs(scene.at.x) / np.float32(scene.body.half_width)
        meniscus = level + 2.4 - 4.4 * np.clip(out, 0, 1.05) ** 4 - 1.2 * gaussian(out - 0.18, 0.1)
        depth = np.clip((scene.at.y - meniscus) / 2.6, 0, 1)
        scene.fill_air(side, smoothstep(scene.at.y - meniscus, 0.5) * (0.55 + 0.42 * depth))
        if supine:  # fluid spreads behind the lung: a veil, denser toward the base
            veil = np.clip((scene.at.y - scene.body.apex) / (scene.body.dome - scene.body.apex), 0, 1) ** 1.5
            scene.fill_air(side, (0.08 + 0.34 * amount) * veil)


def _fill_patches(
    scene: ChestScene, spots: list[tuple[int, float, float, float]], *, share: float, soft: float, grain: float
) -> None:
    """Fill patches (side, x, y, half size in cm) of ragged outline; `soft`: blur of the rim, `grain`: mottling inside."""
    coarse, rng = scene.at.downsampled(), scene.rng
    ragged = 0.26 * fractal_noise(coarse, rng, size=4.0, roughness=1.5)
    texture = np.clip(1 + grain * fractal_noise(coarse, rng, size=1.2, roughness=0.8, octaves=3), 0, 2.2)
    for side in SIDES:
        covered = coarse.zeros()
        for own, x, y, half in spots:
            if own == side:
                radius = elliptic_radius(coarse, x, y, half, half * float(rng.uniform(0.7, 1.3)), float(rng.uniform(-45, 45)))
                covered = np.maximum(covered, smoothstep(1 - radius - ragged, soft))
        if covered.any():
            scene.fill_air(side, scene.at.upsample(np.clip(share * covered * texture, 0, 0.92).astype(np.float32)))


def _add_consolidation(scene: ChestScene, extent: float) -> None:
    spots = []
    for side in _draw_sides(scene.rng, 0.25):
        x, y = scene.draw_position(side, 0.25, 0.95, 0.4, 0.8)
        spots.append((side, x, y, 1.9 + 3.6 * extent))
    _fill_patches(scene, spots, share=0.38 + 0.42 * extent, soft=0.5, grain=0.10)


def _add_pneumonia(scene: ChestScene, extent: float) -> None:
    spots = []
    for side in _draw_sides(scene.rng, 0.2):
        x, y = scene.draw_position(side, 0.4, 0.95, 0.4, 0.8)
        spots.append((side, x, y, 1.6 + 2.8 * extent))
        spots.append((side, x + float(scene.rng.normal(0, 1.6)), y + float(scene.rng.normal(0, 1.8)), 1.2 + 2.0 * extent))
    _fill_patches(scene, spots, share=0.24 + 0.32 * extent, soft=0.6, grain=0.20)


def _add_infiltration(scene: ChestScene, extent: float) -> None:
    spots = []
    for side in _draw_sides(scene.rng, 0.5):
        for _ in range(int(scene.rng.integers(2, 5))):
            x, y = scene.draw_position(side, 0.2, 0.97)
            spots.append((side, x, y, 1.6 + 2.4 * extent))
    _fill_patches(scene, spots, share=0.13 + 0.24 * extent, soft=0.8, grain=0.32)


def _add_edema(scene: ChestScene, extent: float) -> None:
    rng, coarse = scene.rng, scene.at.downsampled()
    mist = 1 + 0.25 * fractal_noise(coarse, rng, size=1.8, roughness=0.8, octaves=3)
    for side in SIDES:
        hilum = elliptic_radius(coarse, side * 4.4, scene.body.hilum + 1.8, 5.5 + 1.5 * extent, 7.0 + 2.0 * extent)
        share = (0.12 + 0.36 * extent) * float(rng.uniform(0.8, 1.2)) * np.exp(-0.5 * hilum**2) * mist
        scene.fill_air(side, scene.at.upsample(np.clip(share, 0, 0.85).astype(np.float32)))
    scene.vessels *= 1 + 0.5 * extent
    scene.vessels += 0.5 * extent * blur(scene.vessels, 0.15 / scene.at.spacing)  # cuffs
    septa = Sheet(scene.at)
    for side in SIDES:
        for _ in range(int(10 * extent)):  # Kerley's B lines
            y = scene.body.dome - float(rng.uniform(0.5, 6.5))
            edge = float(rib_cage_half_width(np.array([y], dtype=np.float32), scene.body)[0])
            path = spline_path([(side * (edge - 0.2), y), (side * (edge - 0.9), y + 0.05), (side * (edge - 1.7), y + 0.1)], 10)
            septa.add_ribbon(path, 0.05, ellipsoid_profile, 0.8)
    scene.water += septa.render() * scene.lung_mask()


def _add_round_opacity(scene: ChestScene, side: int, x: float, y: float, radius: float, spiky: float) -> None:
    """Add a round opacity, limited to the air at its position."""
    outline = elliptic_radius(
        scene.at, x, y, radius, radius * float(scene.rng.uniform(0.82, 1.18)), float(scene.rng.uniform(0, 90))
    )
    if spiky:
        outline += spiky * fractal_noise(scene.at, scene.rng, size=1.5 * radius, roughness=0.9, octaves=3)
    thickness = 2.4 * radius * ellipsoid_profile(np.clip(outline, 0, 1))
    scene.water += np.minimum(thickness, scene.air[side] * (1 - 0.5 * scene.heart))
    scene.vessels *= 1 - 0.6 * smoothstep(1 - outline, 0.2)


def _add_nodules(scene: ChestScene, extent: float) -> None:
    several = scene.rng.random() < 0.35
    for _ in range(int(scene.rng.integers(2, 6)) if several else 1):
        side = _draw_side(scene.rng)
        x, y = scene.draw_position(side, 0.1, 0.9, 0.4, 0.88)
        size = (0.32 + 1.1 * extent) * (float(scene.rng.uniform(0.7, 1.1)) if several else 1.0)
        _add_round_opacity(scene, side, x, y, size, 0.05)


def _add_mass(scene: ChestScene, extent: float) -> None:
    side = _draw_side(scene.rng)
    x, y = scene.draw_position(side, 0.12, 0.85, 0.42, 0.85)
    if scene.rng.random() < 0.25:
        x, y = side * float(scene.rng.uniform(3.4, 5.0)), scene.body.hilum + float(scene.rng.normal(0, 1.0))
    _add_round_opacity(scene, side, x, y, 1.55 + 2.4 * extent, 0.07)


def _add_emphysema(scene: ChestScene, extent: float) -> None:
    """Add bullae: round regions without vessels."""
    for _ in range(int(6 * extent)):
        x, y = scene.draw_position(_draw_side(scene.rng), 0.02, 0.6, 0.4, 0.9)
        radius = elliptic_radius(scene.at, x, y, float(scene.rng.uniform(1.0, 2.4)), float(scene.rng.uniform(1.0, 2.4)))
        scene.vessels *= 1 - 0.9 * smoothstep(1 - radius, 0.15)
        scene.water += 0.3 * gaussian(radius - 1, 0.04) * scene.lung_mask()


def _add_fibrosis(scene: ChestScene, extent: float) -> None:
    rng, y = scene.rng, scene.at.y
    upper = rng.random() < 0.25
    net = np.abs(fractal_noise(scene.at, rng, size=1.6, roughness=0.7, octaves=3))
    patch = np.clip(0.7 + 0.5 * fractal_noise(scene.at.downsampled(), rng, size=4.0, octaves=2), 0, 1.6).astype(np.float32)
    middle = scene.body.apex + (5.5 if upper else 0.78 * (scene.body.dome - scene.body.apex))
    zone = gaussian(y - middle, 3.0 + 2.0 * extent) if upper else smoothstep(y - middle + 2.5 * extent, 3.0)
    rim = sum(
        (smoothstep(2.2 + 3 * extent - rib_cage_half_width(y, scene.body) + scene.at.x * side, 2.2) for side in SIDES),
        scene.at.zeros(),
    )
    lines = (
        np.clip(1 - 3.2 * net, 0, 1) * scene.at.upsample(patch) * np.clip(zone * (0.55 + 0.45 * rim) + 0.35 * extent * rim, 0, 1)
    )
    scene.water += (1.0 + 3.0 * extent) * lines * scene.lung_mask()


def _add_pneumothorax(scene: ChestScene, extent: float) -> None:
    side = scene.pneumothorax_side = _draw_side(scene.rng)
    gap = (0.5 + 5.0 * extent) * (0.25 + 0.75 * smoothstep(scene.body.apex + 9 + 6 * extent - scene.at.y, 7))
    top = scene.body.apex + 0.8 + 4.0 * extent
    edge = rib_cage_half_width(scene.at.y, scene.body) - gap - scene.at.x * side
    dome = scene.at.y - np.float32(top) - 0.15 * np.square(np.abs(scene.at.x) - 4.6)
    inside = np.minimum(edge, dome)  # distance within the collapsed lung
    lung = smoothstep(inside, 0.1)
    own = smoothstep(scene.at.x * side, 0.2)
    pleura = scene.air[side] > 2.5
    scene.vessels *= 1 - own * (1 - lung)
    scene.air[side] *= 1 + 0.10 * (1 - lung)
    scene.fill_air(side, lung * np.float32(0.03 + 0.2 * extent))
    scene.water += 0.6 * gaussian(inside, 0.07) * own * pleura


def _add_pleural_thickening(scene: ChestScene, extent: float) -> None:
    rng, y = scene.rng, scene.at.y
    for side in _draw_sides(rng, 0.25):
        lobed = 1 + 0.35 * np.sin(y * np.float32(rng.uniform(0.5, 1.2)) + np.float32(rng.uniform(0, 6)))
        inward = rib_cage_half_width(y, scene.body) - scene.at.x * side
        location = rng.random()
        if location < 0.4:  # an apical cap
            cover = smoothstep(scene.body.apex + 1.6 + 1.6 * extent + 0.3 * lobed - y, 0.6)
        else:  # lateral thickening; a low one blunts the costophrenic angle
            thick = (0.2 + 1.1 * extent) * lobed * (smoothstep(y - scene.body.apex - 8, 5) if location < 0.8 else 1.0)
            cover = smoothstep(thick - inward, 0.25)
        scene.water += (2.0 + 2.0 * extent) * cover * smoothstep(scene.air[side] - 0.5, 0.5)
        if rng.random() < 0.2:  # a calcified plaque
            x, height = scene.draw_position(side, 0.4, 0.9, 0.6, 0.95)
            plaque = elliptic_radius(scene.at, x, height, 0.5 + 1.2 * extent, 0.25 + 0.4 * extent, float(rng.uniform(-60, 60)))
            scene.water += 1.5 * ellipsoid_profile(np.clip(plaque + 0.2 * np.sin(6 * scene.at.x), 0, 1))


def _add_hernia(scene: ChestScene, extent: float) -> None:
    size, x = 1.4 + 2.4 * extent, 0.8 + float(scene.rng.normal(0, 0.8))
    y = scene.body.dome - 1.2 * size + 1.0
    radius = elliptic_radius(scene.at, x, y, size * float(scene.rng.uniform(1.0, 1.4)), size)
    gas = smoothstep(y + float(scene.rng.normal(-0.1, 0.25)) * size - scene.at.y, 0.06) * smoothstep(0.86 - radius, 0.08)
    scene.water += 0.9 * size * ellipsoid_profile(np.clip(radius, 0, 1), 3) * (1 - gas) - 1.3 * size * gas
    below = diaphragm(scene.at, scene.body, 1) - scene.at.y
    scene.water += 0.3 * gaussian(radius - 0.95, 0.05) * smoothstep(below, 0.5)


BODY_CHANGES: Mapping[str, Callable[[Body, float, RandomGenerator], Body]] = {
    "Atelectasis": _collapse_lobe,
    "Cardiomegaly": _enlarge_heart,
    "Effusion": _build_mediastinal_push(0.75, 1.6),
    "Pneumothorax": _build_mediastinal_push(0.8, 2.0),
    "Emphysema": _inflate_lungs,
    "Fibrosis": _shrink_lungs,
}
"""Changes of the thorax shape by finding. Each draws its side first, like the same finding in LUNG_CHANGES from the same seed."""

LUNG_CHANGES: Mapping[str, Callable[[ChestScene, float], None]] = {
    "Emphysema": _add_emphysema,
    "Edema": _add_edema,
    "Infiltration": _add_infiltration,
    "Pneumonia": _add_pneumonia,
    "Consolidation": _add_consolidation,
    "Atelectasis": _add_atelectasis,
    "Fibrosis": _add_fibrosis,
    "Mass": _add_mass,
    "Nodule": _add_nodules,
    "Pneumothorax": _add_pneumothorax,
    "Effusion": _add_effusion,
    "Pleural_Thickening": _add_pleural_thickening,
    "Hernia": _add_hernia,
}
"""Changes of the lung content by finding, in the order of their application."""

FINDING_ORDER = ("Cardiomegaly", *LUNG_CHANGES)
"""Every finding; its index is part of its seed."""


def _create_finding_generator(body: Body, name: str) -> RandomGenerator:
    """Return the generator of a finding. It depends on the person only: the finding keeps its position on every film."""
    return np.random.default_rng([body.seed, 3, FINDING_ORDER.index(name)])


def alter_body(body: Body, findings: Mapping[str, float]) -> Body:
    """Return the body, changed by the findings that affect its shape. KeyError for an unknown finding."""
    for name in findings:
        if name not in FINDING_ORDER:
            raise KeyError(name)
    for name, change in BODY_CHANGES.items():
        if name in findings:
            body = change(body, findings[name], _create_finding_generator(body, name))
    return body


def add_findings(scene: ChestScene, findings: Mapping[str, float]) -> None:
    """Add findings to a scene."""
    for name, change in LUNG_CHANGES.items():
        if name in findings:
            scene.rng = _create_finding_generator(scene.body, name)
            change(scene, findings[name])
