"""Procedural radiographs: frontal chest films of simulated persons.

A film is computed from the thickness of soft tissue, air and bone along the beam, a detector with scatter and noise, and the
processing of digital systems (logarithm, edge enhancement). The seed determines everything. The person is modelled upright and
straight, where most of the anatomy depends on x or y alone; the finished thickness is then rotated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from adapters.simulator import anatomy, findings, skeleton
from adapters.simulator.anatomy import SIDES, Body
from adapters.simulator.detector import develop_film
from adapters.simulator.devices import devices
from adapters.simulator.exposure import Exposure, draw_exposure
from adapters.simulator.findings import ChestScene
from adapters.simulator.raster import Field, Grid, fractal_noise, make_grid, rotate, rotation_margin, smoothstep
from adapters.simulator.sites import SITES, Site
from adapters.simulator.vessels import vessels

FILM_HEIGHT = 38.0
"""Height of the detector, cm."""
BONE_ATTENUATION = 1.75
"""Attenuation of cortical bone in excess of the displaced soft tissue, relative to soft tissue of the same thickness."""
SMALL_FILM_ROWS = 200
"""Films of fewer rows are rendered at twice the size and averaged, like a large film that is reduced."""
DEFAULT_SITE = SITES["north"]
LOCATED_SHARE = 0.25
"""Share of the largest change of thickness from which a pixel belongs to a finding."""


@dataclass(frozen=True, slots=True)
class SimulatedFilm:
    """A film and its ground truth."""

    pixels: Field  # float32 [H, W] in 0..1, bone bright
    body: Body | None
    exposure: Exposure
    findings: Mapping[str, float] = field(default_factory=dict)  # finding -> extent 0..1
    height: float = FILM_HEIGHT  # of the detector, cm


class RadiographyTable:
    """Radiography table: maps the patient's frame to the detector and develops the film."""

    def __init__(self, exposure: Exposure, size: tuple[int, int], *, height: float = FILM_HEIGHT) -> None:
        self.exposure = exposure
        self._finer = 2 if size[0] < SMALL_FILM_ROWS else 1
        rows, columns = size[0] * self._finer, size[1] * self._finer
        self._margin = rotation_margin(exposure.degrees, (rows, columns))
        self._detector = make_grid(rows, columns, height)
        canvas = make_grid(rows, columns, height, margin=self._margin)
        self.at = canvas.in_patient_frame(right=exposure.right, down=exposure.down, zoom=exposure.zoom)

    def project(self, field: Field) -> Field:
        """Return a field of the patient's frame as the detector sees it: float32 [rows, columns]."""
        straight = rotate(np.asarray(field, dtype=np.float32), self.exposure.degrees, self._margin)
        return self._reduce_image(straight)

    def _reduce_image(self, image: Field) -> Field:
        if self._finer == 1:
            return image
        rows, columns = image.shape
        return np.asarray(image.reshape(rows // 2, 2, columns // 2, 2).mean(axis=(1, 3)), dtype=np.float32)

    def take_film(self, thickness: Field, rng: np.random.Generator) -> Field:
        """Return the film of a thickness (cm of water) in the patient's frame: float32 [rows, columns] in 0..1."""
        straight = rotate(np.asarray(thickness, dtype=np.float32), self.exposure.degrees, self._margin)
        return self._reduce_image(develop_film(straight, self._detector, self.exposure, rng))


def take_frontal(
    seed: int,
    *,
    body: Body | None = None,
    view: str = "PA",
    findings: Mapping[str, float] | None = None,
    size: tuple[int, int] = (512, 512),
    site: Site | None = None,
) -> SimulatedFilm:
    """Take a frontal chest film, [rows, columns] = size, at a site. `findings`: name -> extent 0..1.

    KeyError for an unknown finding. The same seed without a finding gives a film that differs by the finding alone.
    """
    body = body or anatomy.draw_body(np.random.default_rng([seed, 0]))
    present = dict(findings or {})
    exposure = draw_exposure(np.random.default_rng([seed, 1]), view, site or DEFAULT_SITE, present)
    table = RadiographyTable(exposure, size)
    thickness = _render_thickness(table.at, body, exposure, present, np.random.default_rng([seed, 2]))
    return SimulatedFilm(table.take_film(thickness, np.random.default_rng([seed, 3])), body, exposure, present)


@dataclass(frozen=True, slots=True)
class LocatedFinding:
    """A film, and where one of its findings is: pixels at which it changes the thickness by LOCATED_SHARE of its largest change."""

    film: SimulatedFilm
    mask: npt.NDArray[np.bool_]  # [H, W]
    lungs: Field  # float32 [H, W]: share of the lungs of the same person without findings, 0..1


def take_located(
    seed: int,
    finding: str,
    *,
    findings: Mapping[str, float],
    view: str = "PA",
    size: tuple[int, int] = (512, 512),
    site: Site | None = None,
) -> LocatedFinding:
    """Take the film of `take_frontal`; compare the thickness of the patient, without devices, with that without one finding."""
    film = take_frontal(seed, view=view, findings=findings, size=size, site=site)
    assert film.body is not None
    table, bare = RadiographyTable(film.exposure, size), replace(film.exposure, devices=())
    with_and_without = [
        _render_thickness(table.at, film.body, bare, present, np.random.default_rng([seed, 2]))
        for present in (findings, {name: extent for name, extent in findings.items() if name != finding})
    ]
    change = table.project(np.abs(with_and_without[0] - with_and_without[1]))
    healthy = _build_scene(table.at, _pose_body(film.body, bare), view, np.random.default_rng([seed, 2]))
    return LocatedFinding(film, change >= LOCATED_SHARE * change.max(), table.project(healthy.lung_mask()))


def _render_thickness(at: Grid, body: Body, exposure: Exposure, present: Mapping[str, float], rng: np.random.Generator) -> Field:
    """Return the thickness of water (cm) equivalent to the patient and all devices."""
    scene = _build_scene(at, _pose_body(findings.alter_body(body, present), exposure), exposure.view, rng)
    findings.add_findings(scene, present)
    foreign = devices(at, scene.body, exposure.devices, rng, scene.pneumothorax_side)
    return np.maximum(_render_flesh_and_bone(at, scene.body, exposure, rng) - _render_lungs(scene, rng), 0) + scene.water + foreign


def _pose_body(body: Body, exposure: Exposure) -> Body:
    """Pose the patient: supine for an AP film, with shallow inspiration and a heart enlarged by projection."""
    if exposure.view != "AP":
        return body
    return replace(
        body,
        dome=body.dome - 2.2,
        heart_left=body.heart_left * 1.13,
        heart_right=body.heart_right * 1.15,
        aortic_knob=body.aortic_knob + 0.4,
    )


def _build_scene(at: Grid, body: Body, view: str, rng: np.random.Generator) -> ChestScene:
    """Return the scene of healthy lungs."""
    return ChestScene(
        at=at,
        body=body,
        view=view,
        rng=rng,
        air={side: anatomy.lung(at, body, side) for side in SIDES},
        heart=anatomy.mediastinum(at, body),
        vessels=vessels(at, body),
        water=at.zeros(),
    )


def _render_lungs(scene: ChestScene, rng: np.random.Generator) -> Field:
    """Thickness of tissue (cm) displaced by air."""
    at = scene.at
    air = (scene.air[-1] + scene.air[1]) * (1 - scene.heart)
    grain = 1 + 0.014 * fractal_noise(at, rng, size=0.6, octaves=2) + 0.02 * fractal_noise(at, rng, size=5)
    return np.asarray(air * grain - scene.vessels * smoothstep(air - 0.8, 0.8))


def _render_flesh_and_bone(at: Grid, body: Body, exposure: Exposure, rng: np.random.Generator) -> Field:
    """Thickness of everything but the lungs, bone as equivalent soft tissue; computed at half the resolution and upsampled."""
    coarse, portable = at.downsampled(), exposure.view == "AP"
    spread = float(rng.uniform(-0.5, 2.0) if portable else rng.uniform(1.0, 9.0))
    flesh = np.maximum(anatomy.trunk(coarse, body), anatomy.arms(coarse, body, spread))
    flesh *= 1 + 0.012 * fractal_noise(coarse, rng, size=3)
    flesh += anatomy.breasts(coarse, body) + anatomy.muscles(coarse, body) - anatomy.airways(coarse, body)
    flesh -= anatomy.stomach_bubble(coarse, body, float(rng.uniform(0, 1.1))) + anatomy.bowel(coarse, body, rng)
    bone = skeleton.bones(coarse, body, lift=1.0 if portable else 0.0, inward=2.4 if portable else 0.2)
    return at.upsample(np.asarray(flesh + np.float32(BONE_ATTENUATION) * bone, dtype=np.float32))
