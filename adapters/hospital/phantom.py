"""Procedural radiographs: frontal chest films of persons who do not exist, laterals, and a knee for what is no chest.

A film is the thickness of soft tissue, air and bone along the beam, seen through a detector with scatter and noise, then
processed as digital systems do (logarithm, edge enhancement). Everything follows from the seed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from adapters.hospital import anatomy
from adapters.hospital.anatomy import SIDES, Body
from adapters.hospital.findings import BODIES, CHANGES, Scene
from adapters.hospital.raster import Field, Grid, Strokes, ball, blur, bump, cloud, ellipse, grid, step, tube

FILM_HEIGHT = 38.0
"""Height of the detector, cm."""
BONE = 1.75
"""Attenuation of cortical bone relative to the same thickness of soft tissue, less that tissue's own."""
THINNEST, THICKEST = 1.0, 27.0
"""Thickness of water (cm) that is shown black, and white."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposure:
    """How one film was taken."""

    view: str = "PA"  # "PA" or "AP" (portable)
    degrees: float = 0.0  # rotation in the image plane
    right: float = 0.0  # cm off centre
    down: float = 0.0
    zoom: float = 1.0
    scatter: float = 0.12
    noise: float = 0.010  # of the logarithm of the signal, through average thickness
    edges: float = 0.55  # strength of edge enhancement
    leads: bool = False  # ECG leads and a central venous line
    collimation: float = 0.0  # cm of shutter at each side


@dataclass(frozen=True, slots=True)
class Film:
    """A film and the truth about it."""

    pixels: Field  # float32 [H, W] in 0..1, bone bright
    body: Body | None
    exposure: Exposure
    findings: Mapping[str, float] = field(default_factory=dict)  # finding -> extent 0..1


def exposure(chance: np.random.Generator, view: str = "PA") -> Exposure:
    """Draw how a film is taken: portable AP films are more turned, nearer, noisier and foggier."""
    portable = view == "AP"
    return Exposure(
        view=view,
        degrees=float(chance.normal(0, 2.6 if portable else 1.0)),
        right=float(chance.normal(0, 0.9 if portable else 0.4)),
        down=float(chance.normal(0.2, 0.8)),
        zoom=float(chance.normal(1.07 if portable else 1.0, 0.025)),
        scatter=float(chance.uniform(0.22, 0.36) if portable else chance.uniform(0.08, 0.16)),
        noise=float(chance.uniform(0.014, 0.024) if portable else chance.uniform(0.006, 0.012)),
        edges=float(chance.uniform(0.35, 0.75)),
        leads=bool(portable and chance.random() < 0.6),
        collimation=float(chance.uniform(0, 1.2) if chance.random() < 0.35 else 0.0),
    )


def frontal(
    seed: int,
    *,
    body: Body | None = None,
    view: str = "PA",
    findings: Mapping[str, float] | None = None,
    size: tuple[int, int] = (512, 512),
) -> Film:
    """Take a frontal chest film, [rows, columns] = size. `findings`: name -> extent 0..1. KeyError for an unknown finding."""
    chance = np.random.default_rng(seed)
    body = body or anatomy.person(chance)
    taken = exposure(chance, view)
    present = dict(findings or {})
    detector = grid(*size, FILM_HEIGHT)
    of_findings = np.random.default_rng([seed, 1])  # apart: the same film without a finding differs by the finding alone
    scene = _scene(detector, _posed(_altered(body, present), taken), taken, of_findings)
    for name, change in CHANGES.items():
        if name in present:
            change(scene, present[name])
    thickness = _soft(scene, chance) + np.float32(BONE) * _bone(scene, taken) + _foreign(detector, taken, chance)
    return Film(_developed(thickness, detector, taken, chance), body, taken, present)


def _altered(body: Body, findings: Mapping[str, float]) -> Body:
    for name, extent in findings.items():
        if name in BODIES:
            body = BODIES[name](body, extent)
        elif name not in CHANGES:
            raise KeyError(name)
    return body


def _posed(body: Body, taken: Exposure) -> Body:
    """Lie the patient down for an AP film: shallow breath, the heart nearer the tube and so larger."""
    if taken.view != "AP":
        return body
    return replace(
        body, dome=body.dome - 2.2, heart_left=body.heart_left * 1.13, heart_right=body.heart_right * 1.15, knob=body.knob + 0.4
    )


def _scene(detector: Grid, body: Body, taken: Exposure, chance: np.random.Generator) -> Scene:
    """Return what the beam meets in healthy lungs."""
    at = detector.moved(degrees=taken.degrees, right=taken.right, down=taken.down, zoom=taken.zoom)
    return Scene(
        at=at,
        body=body,
        chance=chance,
        air={side: anatomy.lung(at, body, side) for side in SIDES},
        heart=anatomy.mediastinum(at, body),
        vessels=_vessels(detector, body),
        water=np.zeros(at.shape, dtype=np.float32),
    )


def _soft(scene: Scene, chance: np.random.Generator) -> Field:
    at, body = scene.at, scene.body
    air = sum((scene.air[side] for side in SIDES), np.zeros(at.shape, dtype=np.float32))
    grain = 1 + 0.012 * cloud(at.shape, chance, size=scene.pixels(0.5)) + 0.02 * cloud(at.shape, chance, size=scene.pixels(5))
    in_lung = step(air - 1.0, 1.0) * (1 - scene.heart)
    mottle = 1 + 0.012 * cloud(at.shape, chance, size=scene.pixels(3))
    flesh = np.maximum(anatomy.trunk(at, body), anatomy.arms(at, body)) * mottle
    gas = anatomy.airways(at) + anatomy.stomach_bubble(at, body, float(chance.uniform(0, 1.1)))
    soft = flesh + anatomy.breasts(at, body) - air * (1 - scene.heart) * grain - gas + scene.vessels * in_lung + scene.water
    return np.asarray(np.clip(soft, 0, None), dtype=np.float32)


def _bone(scene: Scene, taken: Exposure) -> Field:
    at, body = scene.at, scene.body
    portable = taken.view == "AP"
    bone = anatomy.ribs(at, body) + anatomy.clavicles(at, body, 1.6 if portable else 0.0) + anatomy.spine(at, body)
    return bone + anatomy.shoulder_girdle(at, body, 2.4 if portable else 0.4)


def _vessels(detector: Grid, body: Body) -> Field:
    """Thickness of blood in the lung's vessels: trees that branch from both hila, by Murray's law."""
    sheet, chance = Strokes(detector), np.random.default_rng(body.vessel_seed)
    middle = body.apex + 0.52 * (body.dome - body.apex)
    branches: list[tuple[np.ndarray, float, float, int]] = []
    for side in SIDES:
        for angle in np.linspace(-1.35, 1.4, 9) + chance.normal(0, 0.1, 9):
            start = np.array([side * chance.uniform(3.0, 3.9), middle + chance.normal(0.6 * angle, 0.5)])
            branches.append((start, angle, float(chance.uniform(0.22, 0.42)), side))
    while branches:
        start, angle, radius, side = branches.pop()
        path = _branch(chance, start, angle, radius, side)
        sheet.line(path, 1.7 * radius, 1.0 * radius + 0.55)
        if radius > 0.06:
            share = float(chance.uniform(0.35, 0.6))
            for part, turn in ((share, 1), (1 - share, -1)):
                bend = angle + turn * float(chance.uniform(0.12, 0.5))
                branches.append((path[-1], bend, radius * part ** (1 / 3) * 0.86, side))
    hila = sum(1.3 * bump(ellipse(detector, side * 3.9, middle + 0.3, 1.1, 1.9, 20 * side), 0.8) for side in SIDES)
    return blur(sheet.rendered(), 0.03 / detector.spacing) + hila


def _branch(chance: np.random.Generator, start: np.ndarray, angle: float, radius: float, side: int) -> np.ndarray:
    """Return points [5, 2] of one gently bent piece of vessel; thinner ones are shorter."""
    length = (0.9 + 3.6 * radius) * float(chance.uniform(0.7, 1.3))
    bends = angle + np.cumsum(chance.normal(0, 0.09, 4))
    steps = np.stack([side * np.cos(bends), np.sin(bends)], axis=1) * length / 4
    return np.concatenate([start[None], start + np.cumsum(steps, axis=0)])


def _foreign(detector: Grid, taken: Exposure, chance: np.random.Generator) -> Field:
    """Thickness of metal and plastic on and in the patient, as of water."""
    if not taken.leads:
        return np.zeros(detector.shape, dtype=np.float32)
    sheet, height = Strokes(detector), FILM_HEIGHT
    t = np.linspace(0, 1, 24)
    for side, y in ((-1, 0.28), (1, 0.3), (1, 0.68)):
        electrode = np.array([side * chance.uniform(8, 11), y * height])
        sag = np.stack([electrode[0] * (1 - t) + side * 3 * t, electrode[1] * (1 - t) + height * t], axis=1)
        sag[:, 0] += np.sin(t * np.pi) * chance.normal(0, 3.5)
        sheet.line(sag, 0.16, 1.6)
        ring = np.stack([np.cos(t * 2 * np.pi), np.sin(t * 2 * np.pi)], axis=1) * 0.5 + electrode
        sheet.line(ring, 0.5, 3.5)
    line = np.stack([-4.2 + 2.2 * np.sin(t * 2.2), 3 + 14 * t], axis=1)
    sheet.line(line, 0.2, 1.5)
    return sheet.rendered()


def _developed(thickness: Field, detector: Grid, taken: Exposure, chance: np.random.Generator) -> Field:
    """Expose, read out and process: scatter, blur, quantum noise, logarithm, edge enhancement, shutters. float32 in 0..1."""
    coefficient = np.float32(0.16)  # per cm of water at chest energies, after the grid
    signal = np.exp(-coefficient * thickness)
    fog = blur(signal, 3.0 / detector.spacing)
    signal = blur(signal, 0.55) + np.float32(taken.scatter) * fog
    average = np.float32(np.exp(-coefficient * 14))
    grains = chance.standard_normal(signal.shape, dtype=np.float32)
    signal *= 1 + np.float32(taken.noise) * grains * np.sqrt(average / signal)
    seen = -np.log(np.clip(signal, 1e-4, None)) / coefficient
    seen += np.float32(taken.edges) * (seen - blur(seen, 0.9 / detector.spacing))
    film = np.clip((seen - THINNEST) / (_white_point(seen) - THINNEST), 0, 1) ** np.float32(0.9)
    return _shuttered(film, detector, taken.collimation)


def _white_point(seen: Field) -> float:
    """Return what is shown white, as automatic exposure control would choose it."""
    return float(np.clip(np.percentile(seen, 99.0) * 1.02, 12, THICKEST))


def _shuttered(film: Field, detector: Grid, shutter: float) -> Field:
    if shutter <= 0:
        return film
    half = np.abs(detector.x).max()
    inside = np.minimum(half - np.abs(detector.x), np.minimum(detector.y, detector.y.max() - detector.y)) - np.float32(shutter)
    return film * step(inside, 0.1)


def lateral(seed: int, *, size: tuple[int, int] = (512, 512)) -> Film:
    """Take a left lateral chest film: spine behind (right), heart in front, two domes."""
    chance = np.random.default_rng(seed)
    body, taken = anatomy.person(chance), exposure(chance, "PA")
    detector = grid(*size, FILM_HEIGHT)
    at = detector.moved(degrees=taken.degrees, right=taken.right, down=taken.down, zoom=taken.zoom)
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
    return Film(_developed(np.clip(soft, 0, None) + np.float32(BONE) * bone, detector, taken, chance), body, taken)


def _side_bones(at: Grid, body: Body) -> Field:
    column = at.x - 7.6 - 1.8 * np.sin((at.y - 6) * 0.1)
    phase = np.mod(at.y / 2.3, 1.0)
    vertebrae = 3.2 * step(1.6 - np.abs(column), 0.15) * (0.4 + 0.6 * step(np.minimum(phase, 1 - phase) - 0.1, 0.03))
    rings = np.zeros_like(at.x)
    for number in range(10):
        course = at.y - 6.5 - 2.2 * number + 0.32 * (at.x - 8) + 0.02 * np.square(at.x)
        rings += 0.7 * tube(course / 1.06, 0.6, 0.13) * step(10.5 - np.abs(at.x), 0.8)
    sternum = 0.9 * step(0.6 - np.abs(at.x + 10.6 + 0.16 * (18 - at.y)), 0.2) * step(6 - np.abs(at.y - 14), 0.6)
    return (vertebrae + rings + sternum) * np.float32(body.bone)


def knee(seed: int, *, size: tuple[int, int] = (512, 512)) -> Film:
    """Take a frontal film of a knee: what is no chest."""
    chance = np.random.default_rng(seed)
    taken = exposure(chance, "PA")
    detector = grid(*size, 30.0)
    at = detector.moved(degrees=taken.degrees * 2, right=taken.right, down=0, zoom=taken.zoom)
    flesh = 11 * ball(np.clip(np.abs(at.x) / (6.2 + 0.7 * np.cos(at.y * 0.25)), 0, 1))
    flare = 2.6 * bump(at.y - 15.2, 2.6)
    half = 1.55 + flare
    shaft = np.clip(np.abs(at.x), 0, None) / half
    joint = step(np.abs(at.y - 15.2 - 0.35 * bump(at.x, 0.8)) - 0.25, 0.08)
    marrow = (1.3 + 1.1 * bump(at.y - 15.2, 3)) * ball(np.clip(shaft, 0, 1))
    cortex = 1.6 * bump(shaft - 0.86, 0.09) * step(np.abs(at.y - 15.2) - 2.5, 2)
    fibula = 1.2 * tube(at.x - 3.9 - 0.02 * at.y, 0.75, 0.3) * step(at.y - 18.3, 0.5)
    patella = 1.0 * ball(np.clip(ellipse(at, 0.2, 12.4, 2.1, 2.2), 0, 1))
    bone = ((marrow + cortex) * joint + fibula + patella) * (1 + 0.05 * cloud(at.shape, chance, size=6))
    return Film(_developed(flesh + np.float32(BONE) * bone, detector, taken, chance), None, taken)
