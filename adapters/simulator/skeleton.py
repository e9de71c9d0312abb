"""Bones of a phantom's chest: thickness of cortical bone along the beam, in centimetres.

Ribs are rings in space, traced from the spine around the side to the front: a ring parallel to the beam is thick, like the outer
curves of ribs on a film.
"""

from __future__ import annotations

import numpy as np

from adapters.simulator.anatomy import SIDES, Body, rib_cage_half_width
from adapters.simulator.raster import (
    Field,
    Grid,
    Sheet,
    ellipsoid_profile,
    elliptic_radius,
    gaussian,
    smoothstep,
    spline_path,
    tube_profile,
)

RIBS = 11
"""Visible pairs of ribs."""
RIB_POINTS = 48
"""Points along one rib."""
RIB_CAGE_FLATTENING = 0.68
"""Depth of the rib cage relative to its width."""


def bones(at: Grid, body: Body, *, lift: float, inward: float) -> Field:
    """Thickness of cortical bone of the chest and its shoulders.

    `lift` (cm): elevation of the clavicles; `inward` (cm): overlap of the scapulae with the lungs.
    """
    sheet = Sheet(at)
    paths, widths, cortex = _trace_ribs(body)  # the front ends are cartilage
    sheet.add_ribbon(paths, widths, _compute_rib_profile, cortex * np.float32(0.5))
    _draw_clavicles(sheet, body, lift)
    for side in SIDES:
        _draw_scapula(sheet, at, side, body.trunk_half_width + 0.4 - inward, body.shoulder)
        sheet.add(_render_humerus(at, side, body.trunk_half_width + 2.6 - inward, body.shoulder + 0.8))
    sheet.add(_render_spine(at, body))
    return sheet.render() * np.float32(body.bone_density)


def _compute_rib_profile(u: Field) -> Field:
    """Profile of cortex around spongy bone."""
    edge = np.exp(-0.5 * np.square((np.abs(u) - 0.82) / 0.13))
    return np.asarray((0.62 * ellipsoid_profile(np.abs(u)) + 0.75 * edge) * (1 - np.abs(u) ** 12), dtype=np.float32)


def _trace_ribs(body: Body) -> tuple[Field, Field, Field]:
    """Return of all ribs the paths [22, RIB_POINTS, 3] (x, y, depth; cm), half widths and thickness shares [22, RIB_POINTS]."""
    number = np.arange(RIBS, dtype=np.float32)[:, None]
    pitch = (body.dome + 6.0 - body.apex) / RIBS
    root = body.apex - 0.6 + pitch * number  # height at the spine
    drop = (2.6 + 1.05 * np.minimum(number, 6)) * body.rib_slope
    end = np.deg2rad(np.array([150, 148, 146, 144, 142, 138, 132, 124, 112, 95, 70], dtype=np.float32))[:, None]
    angle = np.linspace(np.deg2rad(10), end, RIB_POINTS, axis=1)[..., 0]
    reach = rib_cage_half_width(root + 0.45 * drop, body) + 0.45
    x = 1.2 + (reach - 1.2) * np.sin(angle) ** np.float32(0.92)
    y = root - 0.5 * np.sin(2 * angle) * (angle < np.pi / 2) + drop * (0.5 - 0.5 * np.cos(angle)) ** 1.25
    depth = -RIB_CAGE_FLATTENING * reach * np.cos(angle)
    fade = 0.55 + 0.45 * smoothstep(np.float32(np.pi / 2) + 0.2 - angle, 0.6)  # the front is thinner
    fade = fade * smoothstep(end + 0.04 - angle, 0.10)
    flat = np.abs(np.cos(angle))
    half_width = (0.40 + 0.24 * flat) * (1 + 0.015 * number) * (1 + 0.18 * smoothstep(angle - 1.9, 0.6))
    turn = body.rotation * depth / (RIB_CAGE_FLATTENING * body.half_width)
    both = [np.stack([side * x + turn, y, depth], axis=-1) for side in SIDES]
    return np.concatenate(both).astype(np.float32), np.tile(half_width, (2, 1)), np.tile(fade, (2, 1))


def _draw_clavicles(sheet: Sheet, body: Body, lift: float) -> None:
    top, along = body.apex + 3.6 - lift, np.linspace(0, 1, 40)
    width = np.interp(along, [0, 0.1, 0.35, 0.75, 1], [0.95, 0.75, 0.58, 0.55, 0.75])
    thick = np.interp(along, [0, 0.06, 0.3, 0.9, 1], [0.7, 0.95, 1.0, 0.95, 0.6])
    course = ((1.5, 0.4), (4.0, -0.3), (7.6, -0.8), (11.2, -1.5), (body.trunk_half_width + 0.2, -1.6))
    for side in SIDES:
        path = [(side * x + body.rotation * max(0.0, 1 - x / 9), top + y) for x, y in course]
        sheet.add_ribbon(spline_path(path), width, _compute_shaft_profile, 0.85 * thick)


def _compute_shaft_profile(u: Field) -> Field:
    """Profile of a hollow bone with a thick cortex."""
    return np.asarray(tube_profile(u, 1.0, 0.3) * 0.8 + 0.25 * ellipsoid_profile(np.abs(u)), dtype=np.float32)


def _draw_scapula(sheet: Sheet, at: Grid, side: int, socket: float, top: float) -> None:
    outer = [(socket - 0.6, top + 2.6), (socket - 1.8, top + 7.5), (socket - 3.6, top + 12.4)]
    inner = [(socket - 3.6, top + 12.4), (socket - 6.0, top + 6.0), (socket - 5.6, top + 0.6)]
    ridge = [(socket - 5.8, top + 1.8), (socket - 2.4, top - 0.4), (socket + 1.6, top - 1.9)]
    for points, width, thick in ((outer, 0.5, 0.36), (inner, 0.2, 0.3), (ridge, 0.55, 0.4)):
        sheet.add_ribbon(spline_path([(side * x, y) for x, y in points], 24), width, ellipsoid_profile, thick)
    plate = elliptic_radius(Grid(at.x * side, at.y, at.spacing), socket - 3.3, top + 6.0, 2.6, 6.4, 10)
    sheet.add(0.16 * ellipsoid_profile(np.clip(plate, 0, 1), 6))


def _render_humerus(at: Grid, side: int, x: float, y: float) -> Field:
    head = elliptic_radius(at, side * x, y, 2.3, 2.3)
    width = 1.05 + 0.9 * gaussian(at.y - y - 1.5, 2.2)
    across = np.abs(at.x * side - x - 0.4 - 0.10 * (at.y - y)) / width
    shaft = _compute_shaft_profile(np.clip(across, 0, 1)) * smoothstep(at.y - y - 1.0, 1.0)
    return 1.2 * ellipsoid_profile(np.clip(head, 0, 1)) + 0.3 * gaussian(head - 0.95, 0.05) + 0.9 * shaft


def _render_spine(at: Grid, body: Body) -> Field:
    """Thickness of bone of the vertebrae (bodies, end plates, pedicles, spinous processes) and of the sternum."""
    bend = np.sin(at.y * np.float32(0.16) + np.float32(body.taper * 20))
    x = at.x + np.float32(0.5 * body.rotation) - np.float32(body.spine_bend) * bend
    pitch = 1.75 + 0.028 * at.y
    phase = np.mod(at.y / pitch + np.float32(body.hilum), 1.0)
    half_width = 1.15 + 0.022 * at.y + 0.12 * gaussian(np.minimum(phase, 1 - phase), 0.14)
    rim = half_width - np.abs(x)
    column = smoothstep(rim, 0.16) * (0.6 + 0.35 * gaussian(rim - 0.12, 0.12))
    plates = 0.55 + 0.45 * smoothstep(np.minimum(phase, 1 - phase) - 0.07, 0.05)
    lines = 0.28 * (gaussian(phase - 0.13, 0.04) + gaussian(phase - 0.87, 0.04)) * smoothstep(rim, 0.16)
    pedicle = np.hypot((np.abs(x) - half_width * 0.66) / 0.30, (phase - 0.36) * pitch / 0.42)
    process = gaussian(x + np.float32(0.3 * body.rotation), 0.16) * gaussian((phase - 0.75) * pitch, 0.35)
    arms = 0.3 * gaussian((phase - 0.4) * pitch, 0.32) * smoothstep(half_width + 1.5 - np.abs(x), 0.2) * smoothstep(-rim, 0.2)
    bone = 0.6 * column * plates + 0.8 * lines + 0.3 * gaussian(pedicle - 0.9, 0.25) + 0.35 * process + arms
    manubrium = elliptic_radius(at, 1.1 * body.rotation, body.apex + 6.4, 2.5, 3.2)
    return np.asarray(bone + 0.22 * smoothstep(0.95 - manubrium, 0.1), dtype=np.float32)
