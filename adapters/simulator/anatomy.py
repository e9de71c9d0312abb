"""Thorax of a phantom: thickness of soft tissue and air along the beam, in centimetres.

Simplified from the appearance of frontal films. Every function takes positions in the patient's own frame and returns one
thickness per pixel. The patient's right side is on the left of the image. Bones are in `skeleton`, vessels in `vessels`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from adapters.simulator.raster import Field, Grid, Sheet, ellipsoid_profile, elliptic_radius, gaussian, smoothstep, spline_path

SIDES = (-1, 1)
"""-1: the patient's right, at the left of the image; 1: the patient's left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """Body of one person. Lengths in cm. A person keeps the body on every film; findings and posture change a copy."""

    sex: str  # "M" or "F"
    age: int  # years
    half_width: float  # of the rib cage, inside
    taper: float  # widening of the rib cage below the apex: 0.45 fast, 0.65 slow
    apex: float  # y of the top of the lungs
    dome: float  # y of the top of the right diaphragm
    doming: float  # height of the diaphragm's dome above its insertion at the ribs
    left_lower: float  # distance of the left diaphragm below the right
    lung_depth: float
    trunk_half_width: float
    trunk_depth: float
    neck: float  # half the width of the neck
    shoulder: float  # y where the shoulders reach their full width
    heart_left: float  # extent of the heart to the patient's left of the midline
    heart_right: float
    heart_top: float  # y where the left border leaves the great vessels
    aortic_knob: float  # protrusion of the aortic knob
    cone: float  # filling of the cardiac waist by the pulmonary trunk
    hilum: float  # y of the right hilum; the left one is higher
    breast: float  # thickness; 0 for none
    breast_low: float  # distance of the lower edge of the breasts below the dome
    rib_slope: float
    spine_bend: float
    rotation: float  # rotation of the front of the chest to the patient's left
    mediastinal_shift: float  # shift of the mediastinum to the patient's left
    diaphragm_lift: tuple[float, float]  # elevation of the right and left diaphragm
    bone_density: float  # mineral density relative to a young adult's
    vessel_loss: float  # lost share of the lung vessels
    seed: int  # of the vessels and of the positions of findings

    def diaphragm_lift_of(self, side: int) -> float:
        """Elevation of the diaphragm of one side, cm."""
        return self.diaphragm_lift[0] if side < 0 else self.diaphragm_lift[1]


TRAIT_COUNT = 21
"""Number of standard normal traits that define a body."""


def draw_body(rng: np.random.Generator, *, sex: str | None = None, age: int | None = None) -> Body:
    """Draw a person."""
    sex = sex or str(rng.choice(["M", "F"]))
    age = int(np.clip(rng.normal(57, 17), 19, 94)) if age is None else age
    return body_from_traits(
        [float(value) for value in rng.standard_normal(TRAIT_COUNT)], sex=sex, age=age, seed=int(rng.integers(2**31))
    )


def body_from_traits(traits: Sequence[float], *, sex: str, age: int, seed: int) -> Body:
    """Return the body defined by TRAIT_COUNT standard normal numbers."""
    traits = [min(max(trait, -2.6), 2.6) for trait in traits]
    wide, tall, apex, dome, doming, lower, deep, taper, slope, bend, turn = traits[:11]
    left, right, top, knob, cone, hilum, breast, low, fat, neck = traits[11:]
    fat = max(fat, -1.8)
    female, old = sex == "F", max(0.0, (age - 45) / 45)
    width = (12.2 if female else 13.6) + 0.65 * wide
    bottom = (25.4 if female else 26.6) + 1.0 * tall + 0.7 * dome - 0.6 * fat
    heart = 0.60 + 0.045 * left + 0.025 * fat + 0.03 * old
    return Body(
        sex=sex,
        age=age,
        half_width=width,
        taper=0.54 + 0.05 * taper,
        apex=6.0 + 0.6 * apex - 0.3 * tall,
        dome=bottom,
        doming=3.1 + 0.5 * doming - 0.4 * old,
        left_lower=1.1 + 0.6 * lower,
        lung_depth=12.9 + 0.6 * deep + 0.7 * fat + 1.0 * old,
        trunk_half_width=width + 2.8 + 0.9 * fat,
        trunk_depth=20.2 + 1.8 * fat + (0 if female else 1),
        neck=(4.6 if female else 5.3) + 0.35 * neck + 0.2 * fat,
        shoulder=8.4 + 0.7 * neck - 0.4 * fat,
        heart_left=width * heart,
        heart_right=width * (0.29 + 0.03 * right),
        heart_top=13.4 + 0.5 * top,
        aortic_knob=3.2 + 0.3 * knob + 0.9 * old,
        cone=0.8 + 0.35 * cone,
        hilum=15.4 + 0.25 * (bottom - 26) + 0.4 * hilum,
        breast=min(max(2.4 + 1.0 * breast + 0.5 * fat, 0.6), 5.5) if female else 0.0,
        breast_low=1.5 + 1.6 * low + 1.6 * old,
        rib_slope=1.0 + 0.12 * slope + 0.15 * old,
        spine_bend=0.35 * bend,
        rotation=0.35 * turn,
        mediastinal_shift=0.0,
        diaphragm_lift=(0.0, 0.0),
        bone_density=1.05 - 0.3 * old * (1.25 if female else 0.8),
        vessel_loss=0.0,
        seed=seed,
    )


def trunk(at: Grid, body: Body) -> Field:
    """Thickness of the whole body: neck, shoulders, trunk."""
    y = at.y
    slope = np.clip((y - (body.shoulder - 6.6)) / 6.6, 0, 1)
    shoulders = body.neck + 0.9 * smoothstep(2.5 - y, 4.0) + (body.trunk_half_width + 4.6 - body.neck) * slope**2.2
    armpit = 5.2 * smoothstep(y - body.shoulder - 8.0, 3.4)
    flank = 0.35 * np.sin(y * np.float32(0.31) + np.float32(body.taper * 9)) - 1.0 * gaussian(y - body.dome - 5, 5)
    depth = 11.0 + (body.trunk_depth - 11.0) * smoothstep(y - body.shoulder - 1.0, 7.0)
    depth = depth + 1.5 * smoothstep(y - body.dome - 4, 7.0)
    return depth * ellipsoid_profile(np.abs(at.x) / (shoulders - armpit + flank).astype(np.float32), 2.3)


def arms(at: Grid, body: Body, spread: float) -> Field:
    """Thickness of the upper arms; `spread` (cm): distance from the trunk."""
    fall = np.clip((at.y - body.shoulder) / 30, 0, 1.5)
    middle = body.trunk_half_width + 1.6 + 2.5 * fall + spread * fall**1.4
    return (
        8.0
        * ellipsoid_profile(np.clip(np.abs(np.abs(at.x) - middle) / 3.9, 0, 1), 2.3)
        * smoothstep(at.y - body.shoulder - 1.5, 4.0)
    )


def rib_cage_half_width(at_y: Field, body: Body) -> Field:
    """Half the inner width of the rib cage at this height."""
    t = np.clip((at_y - body.apex) / (body.dome + 3.5 - body.apex), 1e-3, 1.2)
    rounded = np.clip(1 - np.clip(1 - t, 0, 1) ** (2.0 / body.taper), 0, 1) ** np.float32(body.taper)
    half_width = 3.2 + (body.half_width - 3.2) * rounded - 0.7 * np.clip(t - 0.75, 0, None)
    return np.asarray(half_width, dtype=np.float32)


def diaphragm(at: Grid, body: Body, side: int) -> Field:
    """Height (y) of the dome of one side. The left one is lower."""
    middle, reach = body.half_width * 0.45, body.half_width * 0.55
    out = (np.abs(at.x) - np.float32(middle)) / np.float32(reach)
    top = body.dome - body.diaphragm_lift_of(side) + (body.left_lower if side > 0 else 0.0)
    fall = np.where(out > 0, 1.75 * np.abs(out) ** 2.2, 0.6 * out**2)
    return np.asarray(top + body.doming * fall, dtype=np.float32)


def lung(at: Grid, body: Body, side: int) -> Field:
    """Thickness of air in one lung, before heart and vessels are subtracted."""
    out = np.abs(at.x)
    edge = rib_cage_half_width(at.y, body) - out
    roof = at.y - np.float32(body.apex) - 0.10 * np.square(out - 4.2) * smoothstep(body.apex + 4 - at.y, 3)
    depth = (
        body.lung_depth * (0.45 + 0.55 * smoothstep(at.y - body.apex - 4.5, 6)) * np.clip(1 - np.exp(-edge / np.float32(1.5)), 0, 1)
    )
    above = diaphragm(at, body, side) - at.y
    behind = 0.2 * np.exp(np.clip(above, -9, 0) / 1.9)  # the lung reaches down behind the dome
    height = np.maximum(smoothstep(above, 0.16), behind * smoothstep(edge - 0.4, 0.4))
    own = smoothstep(at.x * side - 1.2, 0.4)
    return np.asarray(depth * smoothstep(roof, 0.45) * height * own * smoothstep(edge, 0.14), dtype=np.float32)


def mediastinum(at: Grid, body: Body) -> Field:
    """Share of the beam's path through the lungs that heart and great vessels fill, 0..1."""
    y, drop = at.y, body.dome - 26.0
    x = at.x - np.float32(0.6 * body.rotation + body.mediastinal_shift)
    left = 2.2 + (body.aortic_knob - 2.2) * gaussian(y - 11.4, 1.5) + body.cone * gaussian(y - 14.4 - drop / 2, 1.9)
    left += (body.heart_left - 2.4) * _trace_heart_border(y, body.heart_top + 0.6 * drop, 23.4 + drop, 4.6)
    right = 2.3 + 0.35 * gaussian(y - 12.6, 2.4) + (body.heart_right - 2.3) * _trace_heart_border(y, 15.6 + drop, 21.4 + drop, 6.0)
    edge = np.where(x > 0, left - x, right + x).astype(np.float32)
    solid = (
        0.25 + 0.3 * smoothstep(y - 10.0, 1.6) + 0.1 * smoothstep(y - body.heart_top, 3.0)
    )  # the upper mediastinum is thin at its rims
    filled = solid + (1 - solid) * np.sqrt(np.clip(edge / 3.2, 0, 1))
    aorta = 0.14 * smoothstep(2.4 + 0.25 * (body.aortic_knob - 3) - np.abs(x - 0.2), 0.25) * smoothstep(y - 11.5, 1.0) * (x > 0)
    rim = 0.14 + 0.25 * smoothstep(13.0 - y, 3.0)
    return np.asarray(np.maximum(smoothstep(edge / rim, 1.0) * filled, aorta) * smoothstep(y - 3.5, 1.5), dtype=np.float32)


def _trace_heart_border(y: Field, start: float, full: float, fall: float) -> Field:
    """Outline of a heart border: 0 above, a rounded rise to 1, a slow return toward the diaphragm."""
    rise = np.sin(np.clip((y - start) / (full - start), 0, 1) * np.pi / 2) ** 1.25
    return np.asarray(rise * (1 - 0.3 * np.clip((y - full) / fall, 0, 1.6) ** 2), dtype=np.float32)


def airways(at: Grid, body: Body) -> Field:
    """Thickness of air in trachea and main bronchi."""
    lean = 0.12 + 0.4 * body.mediastinal_shift + 0.12 * np.clip(at.y - 9, 0, 4) * -0.3
    trachea = 1.8 * ellipsoid_profile(np.clip(np.abs(at.x - lean) / 0.85, 0, 1)) * smoothstep(13.6 - at.y, 0.6)
    bronchi = Sheet(at)
    for side, end in ((-1, (-3.9, body.hilum + 0.6)), (1, (4.2, body.hilum - 0.4))):
        path = [(0.1 + 0.4 * body.mediastinal_shift, 12.6), (side * 1.2, 13.9), end]
        bronchi.add_ribbon(spline_path(path, 12), np.linspace(0.75, 0.5, 12), ellipsoid_profile, 1.2)
    return np.asarray(np.maximum(trachea, bronchi.render()), dtype=np.float32)


def stomach_bubble(at: Grid, body: Body, size: float) -> Field:
    """Thickness of air under the left diaphragm, with a flat lower border at the fluid level."""
    top = body.dome + body.left_lower - body.diaphragm_lift_of(1)
    radius = elliptic_radius(at, body.half_width * 0.45, top + 2.9, 3.0 * size, 2.2 * size, -8)
    return 3.5 * size * ellipsoid_profile(np.clip(radius, 0, 1)) * smoothstep(top + 3.2 + 0.4 * size - at.y, 0.2)


def bowel(at: Grid, body: Body, rng: np.random.Generator) -> Field:
    """Thickness of gas in loops of bowel under both domes."""
    gas = at.zeros()
    for _ in range(int(rng.integers(0, 5))):
        x, y = float(rng.uniform(-10, 11)), body.dome + float(rng.uniform(6.5, 12))
        loop = elliptic_radius(at, x, y, float(rng.uniform(0.8, 2.4)), float(rng.uniform(0.7, 1.6)), float(rng.uniform(-60, 60)))
        gas += float(rng.uniform(0.8, 2.4)) * ellipsoid_profile(np.clip(loop, 0, 1))
    return gas


def breasts(at: Grid, body: Body) -> Field:
    """Thickness of both breasts: greatest low and lateral, with a rounded lower edge."""
    both = at.zeros()
    low = body.dome + body.breast_low
    for side in SIDES:
        radius = elliptic_radius(
            at, side * body.half_width * 0.60, low - 6.0, body.half_width * 0.50, 6.0 + 0.5 * body.breast, -10 * side
        )
        both += ellipsoid_profile(np.clip(radius, 0, 1), 2.6) * (0.25 + 0.75 * smoothstep(at.y - low + 5.5, 5.0))
    return body.breast * both


def muscles(at: Grid, body: Body) -> Field:
    """Additional thickness of the pectoral muscles; their lower edge runs from the armpit inward."""
    out = np.abs(at.x)
    edge = 17.5 - 0.35 * (out - body.half_width) - at.y
    return (
        (1.6 if body.sex == "M" else 0.8)
        * smoothstep(edge, 2.2)
        * smoothstep(out - 3.0, 3.0)
        * smoothstep(at.y - body.apex - 3.5, 3.0)
    )
