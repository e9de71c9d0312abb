"""The thorax of a phantom: where soft tissue, air and bone lie and how thick they are along the beam, in centimetres.

Simplified from what frontal films show. Every function takes positions in the patient's own frame and returns one thickness a
pixel. The patient's right side is on the left of the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from adapters.hospital.raster import Field, Grid, ball, bump, ellipse, step, tube

SIDES = (-1, 1)
"""-1: the patient's right, at the left of the image; 1: the patient's left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """One person. Lengths in cm. The same person has the same body on every film."""

    sex: str  # "M" or "F"
    age: int  # years
    half_width: float  # of the rib cage, inside
    apex: float  # y of the top of the lungs
    dome: float  # y of the top of the right diaphragm
    lung_depth: float
    trunk_half_width: float
    trunk_depth: float
    heart_left: float  # how far the heart reaches to the patient's left of the midline
    heart_right: float
    knob: float  # how far the aortic knob stands out
    breast: float  # thickness; 0 for none
    rib_slope: float
    spine_bend: float
    bone: float  # mineral: 1 is a young adult's
    seed: int  # of what is drawn inside: vessels, and where findings sit


TRAITS = 12
"""Standard normal numbers that make a body."""


def person(chance: np.random.Generator, *, sex: str | None = None, age: int | None = None) -> Body:
    """Draw a person."""
    sex = sex or str(chance.choice(["M", "F"]))
    age = int(np.clip(chance.normal(57, 17), 19, 94)) if age is None else age
    return body_of([float(value) for value in chance.standard_normal(TRAITS)], sex=sex, age=age, seed=int(chance.integers(2**31)))


def body_of(traits: Sequence[float], *, sex: str, age: int, seed: int) -> Body:
    """Return the body that belongs to TRAITS standard normal numbers."""
    wide, apex, dome, deep, left, right, knob, breast, slope, bend, girth, _ = traits
    female, old = sex == "F", max(0.0, (age - 50) / 40)
    width = (12.3 if female else 13.5) + 0.6 * wide
    girth = min(max(girth, -1.6), 2.2)
    return Body(
        sex=sex,
        age=age,
        half_width=width,
        apex=6.4 + 0.5 * apex,
        dome=25.6 + dome + (0.8 if female else 1.6) - 0.5 * girth,
        lung_depth=13.5 + 0.6 * deep + 1.2 * old,
        trunk_half_width=width + 2.7 + 0.8 * girth,
        trunk_depth=20.5 + 1.9 * girth + (0 if female else 1),
        heart_left=width * (0.62 + 0.035 * left),
        heart_right=width * (0.29 + 0.025 * right),
        knob=3.3 + 0.25 * knob + 0.8 * old,
        breast=min(max(2.6 + 0.9 * breast + 0.4 * girth, 0.8), 5.0) if female else 0.0,
        rib_slope=1.0 + 0.1 * slope + 0.12 * old,
        spine_bend=0.3 * bend,
        bone=1.05 - 0.3 * old * (1.25 if female else 0.8),
        seed=seed,
    )


def trunk(at: Grid, body: Body) -> Field:
    """Thickness of the whole body: neck, shoulders, trunk."""
    rise = step(at.y - 6.0, 3.6)
    shoulders = 6.0 + (body.trunk_half_width + 4.5) * rise
    armpit = (body.trunk_half_width + 6.5 - body.trunk_half_width) * step(at.y - 17.0, 3.2)
    half_width = shoulders - armpit + 0.4 * np.sin(at.y * 0.35)
    depth = 11.5 + (body.trunk_depth - 11.5) * step(at.y - 9.5, 6.0)
    return depth * ball(np.abs(at.x) / half_width, 2.1)


def arms(at: Grid, body: Body) -> Field:
    """Thickness of the upper arms beside the trunk."""
    outer = body.trunk_half_width + 4.8
    distance = np.abs(at.x) - np.float32(outer) - (at.y - 12) * np.float32(0.10)
    return 8.5 * ball(np.clip(np.abs(distance) / 4.2, 0, 1)) * step(at.y - 10.0, 2.5)


def wall(at_y: Field, body: Body) -> Field:
    """Half the inner width of the rib cage at this height."""
    t = np.clip((at_y - body.apex) / (body.dome + 3.5 - body.apex), 1e-3, 1.2)
    rounded = np.clip(1 - np.clip(1 - t, 0, 1) ** 3, 0, 1) ** np.float32(0.52)
    half_width = 4.3 + (body.half_width - 4.3) * rounded - 0.7 * np.clip(t - 0.75, 0, None)
    return np.asarray(half_width, dtype=np.float32)


def diaphragm(at: Grid, body: Body, side: int) -> Field:
    """Height (y) of the dome of one side. The left one is lower."""
    middle, reach = body.half_width * 0.47, body.half_width * 0.53
    out = (np.abs(at.x) - middle) / reach
    top = body.dome + (1.1 if side > 0 else 0.0)
    return np.asarray(top + np.where(out > 0, 4.6 * np.abs(out) ** 2.3, 2.0 * out**2), dtype=np.float32)


def lung(at: Grid, body: Body, side: int) -> Field:
    """Thickness of air in one lung, before heart and vessels take their room."""
    out = np.abs(at.x)
    edge = wall(at.y, body) - out
    fold = step(at.y - body.apex + 0.7 * np.square((out - 4.6) / 2.6) * step(body.apex + 4 - at.y, 3), 0.35)
    depth = body.lung_depth * (0.5 + 0.5 * step(at.y - body.apex - 5, 6)) * np.clip(1 - np.exp(-edge / 1.3), 0, 1)
    above = diaphragm(at, body, side) - at.y
    behind = 0.16 * np.exp(np.clip(above, -9, 0) / 1.7)  # the lung reaches down behind the dome
    height = np.maximum(step(above, 0.13), behind * step(edge - 0.4, 0.4))
    own = step(at.x * side - 1.2, 0.3)
    return np.asarray(depth * fold * height * own * step(edge, 0.12), dtype=np.float32)


def mediastinum(at: Grid, body: Body) -> Field:
    """Share of the beam's way through the lungs that heart and great vessels fill, 0..1."""
    y, drop = at.y, body.dome - 26.0
    left = 2.5 + (body.knob - 2.5) * bump(y - 11.3, 1.35) + 0.8 * bump(y - 15.0 - drop / 2, 1.7)
    left += (body.heart_left - 2.6) * _swell(y, 14.2 + drop, 23.6 + drop, 5.0)
    right = 2.5 + 0.25 * bump(y - 13.0, 2.0) + (body.heart_right - 2.5) * _swell(y, 15.4 + drop, 21.6 + drop, 6.0)
    edge = np.where(at.x > 0, left - at.x, right + at.x).astype(np.float32)
    filled = 0.55 + 0.45 * np.clip(edge / 3.0, 0, 1)
    return np.asarray(step(edge, 0.14) * filled * step(y - 4.0, 1.0), dtype=np.float32)


def _swell(y: Field, start: float, full: float, fall: float) -> Field:
    """The outline of a heart border: 0 above, a rounded rise to 1, slowly back in toward the diaphragm."""
    rise = np.sin(np.clip((y - start) / (full - start), 0, 1) * np.pi / 2) ** 1.7
    return np.asarray(rise * (1 - 0.22 * np.clip((y - full) / fall, 0, 1.5) ** 2), dtype=np.float32)


def airways(at: Grid) -> Field:
    """Thickness of air in trachea and main bronchi."""
    trachea = 1.7 * ball(np.clip(np.abs(at.x - 0.1) / 0.85, 0, 1)) * step(14.2 - at.y, 0.5)
    fork = at.zeros()
    for side, slope in ((-1, 1.5), (1, 0.95)):
        out = at.x * side
        distance = np.abs(at.y - 13.7 - out * slope) / np.float32(np.hypot(1, slope))
        fork += 1.1 * ball(np.clip(distance / 0.6, 0, 1)) * step(out, 0.2) * step(4.2 - out, 0.8)
    return np.maximum(trachea, fork)


def stomach_bubble(at: Grid, body: Body, size: float) -> Field:
    """Thickness of air under the left diaphragm."""
    return 3.0 * size * ball(np.clip(ellipse(at, body.half_width * 0.5, body.dome + 3.6, 2.6 * size, 1.3 * size, -8), 0, 1))


def breasts(at: Grid, body: Body) -> Field:
    """Thickness of both breasts."""
    reach = body.half_width * 0.56
    both = at.zeros()
    for side in SIDES:
        radius = ellipse(at, side * reach, body.dome - 3.0, body.half_width * 0.47, 5.6 + 0.5 * body.breast, -12 * side)
        both += ball(np.clip(radius, 0, 1), 3.0) * (0.45 + 0.55 * step(at.y - body.dome + 4, 4))
    return body.breast * both


def ribs(at: Grid, body: Body) -> Field:
    """Thickness of cortical bone of ten pairs of ribs: each a ring tilted forward, its front part fainter and lost to cartilage."""
    bone = at.zeros()
    pitch = (body.dome + 5.5 - body.apex) / 10.2
    for number in range(10):
        height = body.apex + 0.2 + pitch * number
        drop = np.float32((1.1 + 0.30 * min(number, 6)) * body.rib_slope)
        reach = float(wall(np.array([height + 2.4 + drop], dtype=np.float32), body)[0]) + 0.35
        rows = np.flatnonzero((at.y[:, 0] > height - 3) & (at.y[:, 0] < height + 4.2 * drop + 4))
        if rows.size:
            part = slice(int(rows[0]), int(rows[-1]) + 1)
            bone[part] += _ring(Grid(at.x, at.y[part], at.spacing), height, reach, float(drop), 0.62 + 0.025 * number)
    return bone * np.float32(body.bone)


def _ring(at: Grid, height: float, reach: float, drop: float, radius: float) -> Field:
    out = np.abs(at.x) / np.float32(reach)
    inside = np.clip(1 - out * out, 0.0008, 1)
    root = np.sqrt(inside)
    lean = np.minimum(np.abs(np.gradient(root, axis=1)) / np.float32(at.spacing), 4.0)
    back = height + drop * (1 - root) * 1.9 + 0.5 * out
    front = height + 1.9 * drop + drop * root * 1.75 + 0.5 * out
    shade = step(1.0 - out, 0.03)
    steep_back = np.sqrt(1 + np.square(1.9 * drop * lean))
    steep_front = np.sqrt(1 + np.square(1.75 * drop * lean))
    behind = _rib((at.y - back) / steep_back, radius) * step(out * reach - 1.6, 0.5)
    before = _rib((at.y - front) / steep_front, radius * 1.12) * step(out * reach - 0.45 * reach, 1.2)
    return (behind + 0.62 * before) * shade


def _rib(distance: Field, radius: float) -> Field:
    """Cortex all round, spongy bone within."""
    return tube(distance, radius, 0.16) + 0.38 * ball(np.clip(np.abs(distance) / np.float32(radius), 0, 1))


def clavicles(at: Grid, body: Body, lift: float) -> Field:
    """Thickness of cortical bone of both clavicles; `lift` (cm) is how far above their place they lie."""
    out = np.abs(at.x)
    course = body.apex + 3.0 - lift - 0.17 * out + 0.55 * np.sin(out * 0.42 + 0.4)
    shaft = tube((at.y - course) / 1.05, 0.62, 0.17) * step(out - 1.7, 0.3) * step(15.5 - out, 0.5)
    return shaft * np.float32(body.bone * 1.1)


def shoulder_girdle(at: Grid, body: Body, inward: float) -> Field:
    """Thickness of bone of scapulae and humeral heads; `inward` (cm) is how far the scapulae lie over the lungs."""
    bone = at.zeros()
    out = Grid(np.abs(at.x), at.y, at.spacing)
    socket = body.trunk_half_width + 0.6 - inward
    blade = ellipse(out, socket - 2.2, 15.0, 2.9, 6.6, 14)
    bone += 0.28 * ball(np.clip(blade, 0, 1), 8) + 0.45 * bump(blade - 0.97, 0.05)
    head = ellipse(out, socket + 2.4, 9.6, 2.4, 2.5)
    shaft = np.abs(out.x - socket - 3.0 - (out.y - 10) * np.float32(0.12))
    bone += 1.5 * ball(np.clip(head, 0, 1)) + tube(shaft, 1.25, 0.4) * step(out.y - 11.0, 0.8)
    return bone * np.float32(body.bone)


def spine(at: Grid, body: Body) -> Field:
    """Thickness of bone of the vertebrae: bodies, end plates, pedicles and spinous processes."""
    x = at.x - np.float32(body.spine_bend) * np.sin(at.y * np.float32(0.12))
    pitch = 1.75 + 0.028 * at.y
    phase = np.mod(at.y / pitch, 1.0)
    half_width = 1.25 + 0.022 * at.y
    column = step(half_width - np.abs(x), 0.12) * (0.75 + 0.5 * bump(half_width - np.abs(x) - 0.1, 0.12))
    plates = 0.35 + 0.65 * step(np.minimum(phase, 1 - phase) - 0.09, 0.03)
    rim = 0.8 * (bump(phase - 0.13, 0.035) + bump(phase - 0.87, 0.035)) * step(half_width - np.abs(x), 0.12)
    pedicle = np.sqrt(np.square((np.abs(x) - half_width * 0.68) / 0.34) + np.square((phase - 0.36) * pitch / 0.45))
    process = bump(x, 0.16) * bump((phase - 0.7) * pitch, 0.4)
    return (1.15 * column * plates + 0.45 * rim + 0.5 * bump(pedicle - 0.9, 0.22) + 0.5 * process) * np.float32(body.bone)
