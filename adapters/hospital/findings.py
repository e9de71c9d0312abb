"""Findings put into a phantom: what each does to the body before the film, and to air and water along the beam.

Simplified from how these findings look on frontal films (Hansell et al., Fleischner Society glossary, Radiology 2008;246:697).
`extent` is 0..1: from barely there to gross.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from adapters.hospital.anatomy import SIDES, Body, diaphragm, wall
from adapters.hospital.raster import Field, Grid, ball, blur, bump, cloud, ellipse, step


@dataclass(slots=True)
class Scene:
    """What the beam meets in the lungs. Findings change it in place."""

    at: Grid
    body: Body
    chance: np.random.Generator  # of the finding that is being put in
    air: dict[int, Field]  # side -> thickness of air, cm
    heart: Field  # share of the lungs' depth that is filled by heart and great vessels
    vessels: Field  # thickness of blood in the lungs' vessels, cm
    water: Field  # thickness of anything solid or liquid that is added, cm
    pneumothorax_side: int | None = None

    def side(self) -> int:
        """Draw a side."""
        return int(self.chance.choice(SIDES))

    def place(self, side: int, low: float, high: float) -> tuple[float, float]:
        """Draw a point (x, y in cm) well inside one lung, between these shares of its height."""
        y = self.body.apex + 1 + float(self.chance.uniform(low, high)) * (self.body.dome - self.body.apex - 2)
        edge = float(wall(np.array([y], dtype=np.float32), self.body)[0])
        return side * edge * float(self.chance.uniform(0.52, 0.82)), y

    def fill(self, side: int, share: Field) -> None:
        """Replace this share (0..1) of the air of one lung by water; vessels vanish in it."""
        self.water += self.air[side] * (1 - self.heart) * share
        self.vessels *= 1 - np.clip(share, 0, 1)


def _cardiomegaly(body: Body, extent: float) -> Body:
    grown = 1.22 + 0.28 * extent
    return replace(
        body, heart_left=min(body.heart_left * grown, body.half_width * 0.95), heart_right=body.heart_right * (grown + 0.1)
    )


def _emphysema(body: Body, extent: float) -> Body:
    return replace(
        body,
        dome=body.dome + 1.6 + 1.8 * extent,
        lung_depth=body.lung_depth + 1.5 + 1.5 * extent,
        heart_left=body.heart_left * (0.92 - 0.14 * extent),
        rib_slope=body.rib_slope * 0.86,
    )


def _effusion(scene: Scene, extent: float) -> None:
    for side in SIDES if scene.chance.random() < 0.3 else (scene.side(),):
        level = scene.body.dome + 3.0 - (2.0 + 10.0 * extent * float(scene.chance.uniform(0.75, 1.1)))
        out = np.abs(scene.at.x) / np.float32(scene.body.half_width)
        meniscus = level + 2.6 - 4.2 * np.clip(out, 0, 1.05) ** 4 - 1.4 * bump(out - 0.18, 0.1)
        depth = np.clip((scene.at.y - meniscus) / 2.4, 0, 1)
        scene.fill(side, step(scene.at.y - meniscus, 0.5) * (0.62 + 0.36 * depth))


def _pneumothorax(scene: Scene, extent: float) -> None:
    side = scene.pneumothorax_side = scene.side()
    gap = (1.0 + 4.5 * extent) * (0.35 + 0.65 * step(scene.body.apex + 12 - scene.at.y, 7))
    top = scene.body.apex + 1.2 + 3.5 * extent
    edge = wall(scene.at.y, scene.body) - gap - scene.at.x * side
    dome = scene.at.y - top - 0.16 * np.square(np.abs(scene.at.x) - 4.6)
    inside = np.minimum(edge, dome)  # distance within the collapsed lung
    lung = step(inside, 0.1)
    own = step(scene.at.x * side, 0.2)
    scene.vessels *= 1 - own * (1 - lung)
    scene.air[side] *= 1 + 0.13 * (1 - lung)
    scene.fill(side, lung * (0.05 + 0.18 * extent))
    scene.water += 0.55 * bump(inside, 0.07) * own * (scene.air[side] > 3)


def _opacity(scene: Scene, side: int, extent: float, share: float, *, low: float, high: float) -> None:
    x, y = scene.place(side, low, high)
    size = 2.2 + 3.4 * extent
    radius = ellipse(scene.at, x, y, size, size * float(scene.chance.uniform(0.75, 1.3)), float(scene.chance.uniform(-40, 40)))
    ragged = radius + 0.2 * cloud(scene.at, scene.chance, size=3.5, roughness=2.2)
    texture = 1 + 0.14 * cloud(scene.at, scene.chance, size=1.2, roughness=1.8)
    scene.fill(side, np.clip(share * step(0.95 - ragged, 0.4) * texture, 0, 0.9))


def _consolidation(scene: Scene, extent: float) -> None:
    _opacity(scene, scene.side(), extent, 0.42 + 0.2 * extent, low=0.35, high=0.9)


def _pneumonia(scene: Scene, extent: float) -> None:
    side = scene.side()
    for _ in range(2):
        _opacity(scene, side, 0.7 * extent, 0.28 + 0.15 * extent, low=0.45, high=0.95)


def _infiltration(scene: Scene, extent: float) -> None:
    for side in SIDES if scene.chance.random() < 0.5 else (scene.side(),):
        for _ in range(3):
            _opacity(scene, side, 0.5 * extent, 0.13 + 0.1 * extent, low=0.2, high=0.95)


def _edema(scene: Scene, extent: float) -> None:
    mist = 1 + 0.22 * cloud(scene.at, scene.chance, size=2.0, roughness=1.8)
    for side in SIDES:
        hilum = ellipse(scene.at, side * 4.2, scene.body.dome - 8.5, 6.0, 8.0)
        scene.fill(side, np.clip((0.16 + 0.3 * extent) * np.exp(-0.5 * hilum**2) * mist, 0, 0.8))
    scene.vessels += 0.25 * extent * blur(scene.vessels, 0.12 / scene.at.spacing)


def _sphere(scene: Scene, radius: float, *, lobed: float) -> None:
    x, y = scene.place(scene.side(), 0.12, 0.88)
    outline = ellipse(scene.at, x, y, radius, radius * float(scene.chance.uniform(0.85, 1.15)), float(scene.chance.uniform(0, 90)))
    if lobed:
        outline += lobed * cloud(scene.at, scene.chance, size=1.6 * radius)
    scene.water += 2.2 * radius * ball(np.clip(outline, 0, 1))


def _nodule(scene: Scene, extent: float) -> None:
    for _ in range(1 + int(scene.chance.integers(0, 3) == 0)):
        _sphere(scene, 0.55 + 0.85 * extent, lobed=0.03)


def _mass(scene: Scene, extent: float) -> None:
    _sphere(scene, 1.7 + 1.9 * extent, lobed=0.09)


def _atelectasis(scene: Scene, extent: float) -> None:
    side = scene.side()
    for _ in range(int(scene.chance.integers(1, 4))):
        x, y = scene.place(side, 0.72, 0.97)
        plate = ellipse(scene.at, x, y, 2.5 + 2.5 * extent, 0.22 + 0.2 * extent, float(scene.chance.uniform(-22, 22)))
        scene.water += (1.5 + 1.5 * extent) * ball(np.clip(plate, 0, 1))


def _fibrosis(scene: Scene, extent: float) -> None:
    net = np.abs(cloud(scene.at, scene.chance, size=1.1, roughness=2.0))
    low = step(scene.at.y - scene.body.dome + 7, 5)
    rim = sum(step(2.5 + 3 * extent - wall(scene.at.y, scene.body) + scene.at.x * side, 2.5) for side in SIDES)
    inside = sum(step(scene.air[side] - 2, 1) for side in SIDES)
    scene.water += (0.9 + 1.3 * extent) * np.clip(1 - 3.5 * net, 0, 1) * np.clip(low + 0.5 * rim, 0, 1) * inside


def _pleural_thickening(scene: Scene, extent: float) -> None:
    side = scene.side()
    thick = (0.25 + 0.9 * extent) * (1 + 0.3 * np.sin(scene.at.y * 1.1 + 2))
    inward = wall(scene.at.y, scene.body) - scene.at.x * side
    cap = step(scene.body.apex + 2.2 + extent - scene.at.y, 0.6)
    scene.water += 3.0 * np.clip(step(thick - inward, 0.2) + 0.7 * cap, 0, 1) * step(scene.air[side] - 0.6, 0.6)


def _hernia(scene: Scene, extent: float) -> None:
    size = 1.9 + 1.9 * extent
    y = scene.body.dome - 1.2 * size + 1.0
    radius = ellipse(scene.at, 1.2, y, size * 1.15, size)
    gas = step(y - 0.1 - scene.at.y, 0.06) * step(0.86 - radius, 0.08)
    scene.water += 0.8 * size * ball(np.clip(radius, 0, 1), 3) * (1 - gas) - 1.1 * size * gas
    below = diaphragm(scene.at, scene.body, 1) - scene.at.y
    scene.water += 0.25 * bump(radius - 0.95, 0.05) * step(below, 0.5)


BODIES: Mapping[str, Callable[[Body, float], Body]] = {"Cardiomegaly": _cardiomegaly, "Emphysema": _emphysema}
"""Findings that change the shape of the thorax."""

CHANGES: Mapping[str, Callable[[Scene, float], None]] = {
    "Edema": _edema,
    "Infiltration": _infiltration,
    "Pneumonia": _pneumonia,
    "Consolidation": _consolidation,
    "Atelectasis": _atelectasis,
    "Fibrosis": _fibrosis,
    "Mass": _mass,
    "Nodule": _nodule,
    "Pneumothorax": _pneumothorax,
    "Effusion": _effusion,
    "Pleural_Thickening": _pleural_thickening,
    "Hernia": _hernia,
}
"""Findings that change what is in the lungs, in the order in which they are put there."""


def altered(body: Body, findings: Mapping[str, float]) -> Body:
    """Return the body with the findings that change its shape. KeyError for an unknown finding."""
    for name, extent in findings.items():
        if name in BODIES:
            body = BODIES[name](body, extent)
        elif name not in CHANGES:
            raise KeyError(name)
    return body


def put(scene: Scene, findings: Mapping[str, float]) -> None:
    """Put findings into a scene. Where each sits belongs to the person: it is there again on the next film."""
    for index, (name, change) in enumerate(CHANGES.items()):
        if name in findings:
            scene.chance = np.random.default_rng([scene.body.seed, 3, index])
            change(scene, findings[name])
