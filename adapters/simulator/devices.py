"""Devices on and in a patient: ECG leads, lines, tubes, drains, pacemakers. Thickness in cm of water."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from adapters.simulator.anatomy import SIDES, Body, rib_cage_half_width
from adapters.simulator.raster import Field, Grid, Sheet, ellipsoid_profile, smoothstep, spline_path

RandomGenerator = np.random.Generator


def _compute_tube_profile(u: Field) -> Field:
    """Profile of a plastic tube with a radiopaque stripe."""
    return np.asarray(0.35 + np.abs(u) ** 4 + 1.2 * np.exp(-0.5 * np.square((u - 0.35) / 0.14)), dtype=np.float32)


def _draw_leads(sheet: Sheet, body: Body, rng: RandomGenerator) -> None:
    bottom, exit_side = 39.0, float(rng.choice(SIDES))
    for side, y in ((-1, 10.0), (1, 10.5), (1, body.dome + 0.5), (-1, body.dome + 1.0))[: int(rng.integers(3, 5))]:
        x, y = side * float(rng.uniform(8, 11.5)), y + float(rng.normal(0, 1.2))
        end = exit_side * float(rng.uniform(2, 9))
        middle = ((x + end) / 2 + float(rng.normal(0, 3.0)), (y + bottom) / 2 + float(rng.normal(0, 1.5)))
        sheet.add_ribbon(spline_path([(x, y), middle, (end, bottom)]), 0.07, ellipsoid_profile, 2.2)
        from_button = sheet.distance(x, y)
        sheet.add(1.2 * smoothstep(0.55 - from_button, 0.05) + 4.0 * smoothstep(0.2 - from_button, 0.05))


def _draw_central_line(sheet: Sheet, body: Body, rng: RandomGenerator) -> None:
    """Draw a line from the neck or beneath a clavicle into the superior vena cava, at the right of the mediastinum."""
    tip = (-2.3 + float(rng.normal(0, 0.3)), float(rng.uniform(13.5, 17.5)))
    if rng.random() < 0.5:
        path = [(-3.6, 0.5), (-3.3, 5.0), (-2.5, 9.0), tip]
    else:
        side = float(rng.choice(SIDES))
        path = [(side * 9.5, body.apex + 1.6), (side * 5.0, body.apex + 2.6), (-1.8, body.apex + 4.4), tip]
    sheet.add_ribbon(spline_path(path), 0.11, ellipsoid_profile, 1.5)


def _draw_endotracheal_tube(sheet: Sheet, body: Body, rng: RandomGenerator) -> None:
    tip = float(rng.uniform(9.0, 12.5))
    sheet.add_ribbon(spline_path([(0.3, -1.0), (0.1, 4.0), (0.15, tip)]), 0.5, _compute_tube_profile, 0.8)


def _draw_gastric_tube(sheet: Sheet, body: Body, rng: RandomGenerator) -> None:
    bend = float(rng.normal(0, 0.3))
    path = [(0.4, -1.0), (0.2 + bend, 9.0), (0.6, 17.0), (1.5, body.dome), (4.0, body.dome + 4.0), (6.5, body.dome + 6.0)]
    sheet.add_ribbon(spline_path(path), 0.2, _compute_tube_profile, 0.8)


def _draw_pacemaker(sheet: Sheet, body: Body, rng: RandomGenerator) -> None:
    x, y = 8.6 + float(rng.normal(0, 0.5)), body.apex + 3.4 + float(rng.normal(0, 0.4))
    path = [(x, y), (x - 2.6, y - 1.2), (1.5, body.apex + 4.6), (-2.2, 14.0), (-1.8, body.dome - 5.0), (5.0, body.dome - 1.2)]
    sheet.add_ribbon(spline_path(path, 60), 0.1, ellipsoid_profile, 3.5)
    sheet.add(14.0 * smoothstep(2.2 - sheet.distance(x, y, power=4), 0.15))


def _draw_port(sheet: Sheet, body: Body, rng: RandomGenerator) -> None:
    x, y = -8.4 + float(rng.normal(0, 0.6)), body.apex + 4.6
    path = [(x, y), (-6.0, body.apex + 1.0), (-3.0, body.apex + 2.2), (-2.3, 15.5)]
    sheet.add_ribbon(spline_path(path), 0.12, ellipsoid_profile, 1.6)
    from_middle = sheet.distance(x, y)
    sheet.add(3.0 * smoothstep(1.2 - from_middle, 0.08) * (0.5 + 0.5 * smoothstep(from_middle - 0.8, 0.05)))


def _draw_chest_drain(sheet: Sheet, body: Body, rng: RandomGenerator, side: int | None = None) -> None:
    side = side or int(rng.choice(SIDES))
    y = float(rng.uniform(18, 22))
    edge = float(rib_cage_half_width(np.array([y], dtype=np.float32), body)[0])
    path = [(side * (edge + 4), y + 2.5), (side * edge, y), (side * 0.72 * edge, 14.0), (side * 5.5, body.apex + 2.5)]
    sheet.add_ribbon(spline_path(path), 0.42, _compute_tube_profile, 1.1)


DEVICES: Mapping[str, Callable[[Sheet, Body, RandomGenerator], None]] = {
    "leads": _draw_leads,
    "central line": _draw_central_line,
    "endotracheal tube": _draw_endotracheal_tube,
    "gastric tube": _draw_gastric_tube,
    "pacemaker": _draw_pacemaker,
    "port": _draw_port,
    "chest drain": _draw_chest_drain,
}
"""Devices by their name in `exposure.Exposure.devices`."""


def devices(at: Grid, body: Body, names: Sequence[str], rng: RandomGenerator, side: int | None) -> Field | float:
    """Return the thickness of the named devices. `side`: side (-1, 1) of a pneumothorax, where a chest drain lies."""
    if not names:
        return 0.0
    sheet = Sheet(at)
    for name in names:
        if name == "chest drain":
            _draw_chest_drain(sheet, body, rng, side)
        else:
            DEVICES[name](sheet, body, rng)
    return sheet.render()
