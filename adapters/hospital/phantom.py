"""Procedural radiographs: frontal chest films of persons who do not exist.

A film is the thickness of soft tissue, air and bone along the beam, seen through a detector with scatter and noise, then
processed as digital systems do (logarithm, edge enhancement). Everything follows from the seed. The person is built upright and
straight, where most of anatomy depends on x or y alone; the finished thickness is then turned.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from adapters.hospital import anatomy, findings
from adapters.hospital.anatomy import SIDES, Body
from adapters.hospital.detector import developed
from adapters.hospital.devices import devices
from adapters.hospital.exposure import Exposure, exposure
from adapters.hospital.findings import Scene
from adapters.hospital.raster import Field, Grid, cloud, grid, margin_for, step, turned
from adapters.hospital.sites import SITES, Site
from adapters.hospital.vessels import vessels

FILM_HEIGHT = 38.0
"""Height of the detector, cm."""
BONE = 1.75
"""Attenuation of cortical bone relative to the same thickness of soft tissue, less that tissue's own."""
SMALL_FILM = 200
"""Films of fewer rows are made twice as large and averaged, as a large film is when it is shrunk."""
DEFAULT_SITE = SITES["north"]


@dataclass(frozen=True, slots=True)
class Film:
    """A film and the truth about it."""

    pixels: Field  # float32 [H, W] in 0..1, bone bright
    body: Body | None
    exposure: Exposure
    findings: Mapping[str, float] = field(default_factory=dict)  # finding -> extent 0..1


class Table:
    """The table a patient lies on: where the patient's frame is on the detector, and what becomes of the beam behind it."""

    def __init__(self, taken: Exposure, size: tuple[int, int], *, height: float = FILM_HEIGHT) -> None:
        self.taken = taken
        self._finer = 2 if size[0] < SMALL_FILM else 1
        rows, columns = size[0] * self._finer, size[1] * self._finer
        self._margin = margin_for(taken.degrees, (rows, columns))
        self._detector = grid(rows, columns, height)
        canvas = grid(rows, columns, height, margin=self._margin)
        self.at = canvas.placed(right=taken.right, down=taken.down, zoom=taken.zoom)

    def film(self, thickness: Field, chance: np.random.Generator) -> Field:
        """Return the film of a thickness (cm of water) in the patient's frame: float32 [rows, columns] in 0..1."""
        straight = turned(np.asarray(thickness, dtype=np.float32), self.taken.degrees, self._margin)
        film = developed(straight, self._detector, self.taken, chance)
        if self._finer == 1:
            return film
        rows, columns = film.shape
        return np.asarray(film.reshape(rows // 2, 2, columns // 2, 2).mean(axis=(1, 3)), dtype=np.float32)


def frontal(
    seed: int,
    *,
    body: Body | None = None,
    view: str = "PA",
    findings: Mapping[str, float] | None = None,
    size: tuple[int, int] = (512, 512),
    site: Site | None = None,
) -> Film:
    """Take a frontal chest film, [rows, columns] = size, at a site. `findings`: name -> extent 0..1.

    KeyError for an unknown finding. The film without a finding differs by the finding alone.
    """
    body = body or anatomy.person(np.random.default_rng([seed, 0]))
    present = dict(findings or {})
    taken = exposure(np.random.default_rng([seed, 1]), view, site or DEFAULT_SITE, present)
    table = Table(taken, size)
    thickness = _thickness(table.at, body, taken, present, np.random.default_rng([seed, 2]))
    return Film(table.film(thickness, np.random.default_rng([seed, 3])), body, taken, present)


def _thickness(at: Grid, body: Body, taken: Exposure, present: Mapping[str, float], chance: np.random.Generator) -> Field:
    """Return the thickness of water (cm) that attenuates as the patient and all that is on the patient do."""
    scene = _scene(at, _posed(findings.altered(body, present), taken), chance)
    findings.put(scene, present)
    foreign = devices(at, scene.body, taken.devices, chance, scene.pneumothorax_side)
    return _soft(scene, chance) + np.float32(BONE) * _bone(scene, taken) + foreign


def _posed(body: Body, taken: Exposure) -> Body:
    """Lie the patient down for an AP film: shallow breath, the heart nearer the tube and so larger."""
    if taken.view != "AP":
        return body
    return replace(
        body, dome=body.dome - 2.2, heart_left=body.heart_left * 1.13, heart_right=body.heart_right * 1.15, knob=body.knob + 0.4
    )


def _scene(at: Grid, body: Body, chance: np.random.Generator) -> Scene:
    """Return what the beam meets in healthy lungs."""
    return Scene(
        at=at,
        body=body,
        chance=chance,
        air={side: anatomy.lung(at, body, side) for side in SIDES},
        heart=anatomy.mediastinum(at, body),
        vessels=vessels(at, body),
        water=at.zeros(),
    )


def _soft(scene: Scene, chance: np.random.Generator) -> Field:
    at, body = scene.at, scene.body
    air = scene.air[-1] + scene.air[1]
    grain = 1 + 0.012 * cloud(at, chance, size=0.5) + 0.02 * cloud(at, chance, size=5)
    in_lung = step(air - 1.0, 1.0) * (1 - scene.heart)
    mottle = 1 + 0.012 * cloud(at, chance, size=3)
    flesh = np.maximum(anatomy.trunk(at, body), anatomy.arms(at, body)) * mottle
    gas = anatomy.airways(at) + anatomy.stomach_bubble(at, body, float(chance.uniform(0, 1.1)))
    soft = flesh + anatomy.breasts(at, body) - air * (1 - scene.heart) * grain - gas + scene.vessels * in_lung + scene.water
    return np.asarray(np.maximum(soft, 0), dtype=np.float32)


def _bone(scene: Scene, taken: Exposure) -> Field:
    at, body = scene.at, scene.body
    portable = taken.view == "AP"
    bone = anatomy.ribs(at, body) + anatomy.clavicles(at, body, 1.6 if portable else 0.0) + anatomy.spine(at, body)
    return bone + anatomy.shoulder_girdle(at, body, 2.4 if portable else 0.4)
