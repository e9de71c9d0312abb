"""What is on and in a patient and is no patient: ECG leads, lines, tubes, drains, pacemakers. Thickness as of water, cm."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from adapters.hospital.anatomy import SIDES, Body, wall
from adapters.hospital.raster import Field, Grid, ball, ribbon, step

Chance = np.random.Generator


def _curve(points: Sequence[tuple[float, float]], count: int = 40) -> Field:
    """Return a smooth path [count, 2] through these points (x, y in cm), by Catmull and Rom."""
    knots = np.array([points[0], *points, points[-1]], dtype=np.float32)
    t = np.linspace(0, len(points) - 1 - 1e-4, count, dtype=np.float32)
    base = t.astype(np.intp)
    t = (t - base)[:, None]
    a, b, c, d = (knots[base + offset] for offset in range(4))
    path = 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
    return np.asarray(path, dtype=np.float32)


def _hollow(u: Field) -> Field:
    """Profile of a plastic tube with a radiopaque stripe."""
    return np.asarray(0.35 + np.abs(u) ** 4 + 1.2 * np.exp(-0.5 * np.square((u - 0.35) / 0.14)))


def _leads(at: Grid, body: Body, chance: Chance) -> Field:
    thickness, bottom = at.zeros(), float(at.y[-1, 0]) + 1
    exit_side = float(chance.choice(SIDES))
    for side, y in ((-1, 10.0), (1, 10.5), (1, body.dome + 0.5), (-1, body.dome + 1.0))[: int(chance.integers(3, 5))]:
        x, y = side * float(chance.uniform(8, 11.5)), y + float(chance.normal(0, 1.2))
        end = exit_side * float(chance.uniform(2, 9))
        middle = ((x + end) / 2 + float(chance.normal(0, 3.0)), (y + bottom) / 2 + float(chance.normal(0, 1.5)))
        thickness += ribbon(at, _curve([(x, y), middle, (end, bottom)]), 0.07, ball, 2.2)
        for radius, ink in ((0.55, 1.2), (0.2, 4.0)):
            thickness += ink * step(radius - np.hypot(at.x - np.float32(x), at.y - np.float32(y)), 0.05)
    return thickness


def _central_line(at: Grid, body: Body, chance: Chance) -> Field:
    """From the neck or beneath a clavicle into the superior vena cava, at the right of the mediastinum."""
    tip = (-2.3 + float(chance.normal(0, 0.3)), float(chance.uniform(13.5, 17.5)))
    if chance.random() < 0.5:
        path = [(-3.6, 0.5), (-3.3, 5.0), (-2.5, 9.0), tip]
    else:
        side = float(chance.choice(SIDES))
        path = [(side * 9.5, body.apex + 1.6), (side * 5.0, body.apex + 2.6), (-1.8, body.apex + 4.4), tip]
    return ribbon(at, _curve(path), 0.11, ball, 1.5)


def _endotracheal_tube(at: Grid, body: Body, chance: Chance) -> Field:
    tip = float(chance.uniform(9.0, 12.5))
    return ribbon(at, _curve([(0.3, -1.0), (0.1, 4.0), (0.15, tip)]), 0.5, _hollow, 0.8)


def _gastric_tube(at: Grid, body: Body, chance: Chance) -> Field:
    bend = float(chance.normal(0, 0.3))
    path = [(0.4, -1.0), (0.2 + bend, 9.0), (0.6, 17.0), (1.5, body.dome), (4.0, body.dome + 4.0), (6.5, body.dome + 6.0)]
    return ribbon(at, _curve(path), 0.2, _hollow, 0.8)


def _pacemaker(at: Grid, body: Body, chance: Chance) -> Field:
    x, y = 8.6 + float(chance.normal(0, 0.5)), body.apex + 3.4 + float(chance.normal(0, 0.4))
    can = np.sqrt(np.square((at.x - np.float32(x)) / 2.3) ** 2 + np.square((at.y - np.float32(y)) / 2.1) ** 2)
    path = [(x, y), (x - 2.6, y - 1.2), (1.5, body.apex + 4.6), (-2.2, 14.0), (-1.8, body.dome - 5.0), (5.0, body.dome - 1.2)]
    return 14.0 * step(1 - can, 0.08) + ribbon(at, _curve(path, 60), 0.1, ball, 3.5)


def _port(at: Grid, body: Body, chance: Chance) -> Field:
    x, y = -8.4 + float(chance.normal(0, 0.6)), body.apex + 4.6
    chamber = np.hypot(at.x - np.float32(x), at.y - np.float32(y))
    path = [(x, y), (-6.0, body.apex + 1.0), (-3.0, body.apex + 2.2), (-2.3, 15.5)]
    return 3.0 * step(1.2 - chamber, 0.08) * (0.5 + 0.5 * step(chamber - 0.8, 0.05)) + ribbon(at, _curve(path), 0.12, ball, 1.6)


def _chest_drain(at: Grid, body: Body, chance: Chance, side: int | None = None) -> Field:
    side = side or int(chance.choice(SIDES))
    y = float(chance.uniform(18, 22))
    edge = float(wall(np.array([y], dtype=np.float32), body)[0])
    path = [(side * (edge + 4), y + 2.5), (side * edge, y), (side * 0.72 * edge, 14.0), (side * 5.5, body.apex + 2.5)]
    return ribbon(at, _curve(path), 0.42, _hollow, 1.1)


DEVICES: Mapping[str, Callable[[Grid, Body, Chance], Field]] = {
    "leads": _leads,
    "central line": _central_line,
    "endotracheal tube": _endotracheal_tube,
    "gastric tube": _gastric_tube,
    "pacemaker": _pacemaker,
    "port": _port,
    "chest drain": _chest_drain,
}
"""What may show on a film, by the names that `exposure.Exposure.devices` uses."""


def devices(at: Grid, body: Body, names: Sequence[str], chance: Chance, side: int | None) -> Field:
    """Return the thickness of these devices; a chest drain lies on the side (-1, 1) of the pneumothorax where there is one."""
    thickness = at.zeros()
    for name in names:
        thickness += _chest_drain(at, body, chance, side) if name == "chest drain" else DEVICES[name](at, body, chance)
    return thickness
