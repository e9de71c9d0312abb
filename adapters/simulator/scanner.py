"""The radiography room: who is examined how, and the DICOM files that come of it.

`day` is a handful of studies, each with another technique, for demonstrations and tests; `site_examinations` is what the archive
of one
site holds: a population (`population.natural`) with laterals, films of other regions, and the site's machines. What a film shows
stays in `Examination` and `ExaminationInstance`; it is never in the file.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from adapters.simulator import other_films, phantom
from adapters.simulator.anatomy import draw_body
from adapters.simulator.header import Display, HeaderKind, InstanceContext, Patient, Technique, dataset_from_film, encode_file
from adapters.simulator.parallel import map_in_processes
from adapters.simulator.population import Case, enriched_cases, natural_cases, take_film
from adapters.simulator.sites import SITES, Site, SiteEquipment
from adapters.simulator.truth import GroundTruth
from pipeline.domain import FINDINGS

__all__ = [
    "VARIED_STUDIES",
    "Examination",
    "ExaminationInstance",
    "ExaminationOrder",
    "Patient",
    "Technique",
    "draw_patient",
    "enriched_orders",
    "examine_case",
    "examine_patient",
    "natural_orders",
    "site_examinations",
    "take_studies",
    "varied_examinations",
]

NATURAL_SHARE = 0.25
"""Of an enriched archive, the studies that come as they come."""
LATERAL_SHARE = 0.4
"""Share of PA studies that have a lateral film as well."""
OTHER_REGION_SHARE = 0.05
"""Share of studies that show no chest."""
OTHER_REGIONS = ("KNEE", "HAND", "ABDOMEN")
TRANSFER_SYNTAXES = (
    ExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEGLSLossless,
    JPEG2000Lossless,
    RLELossless,
    ImplicitVRLittleEndian,
)
"""Transfer syntaxes of an archive, the commonest more than once."""
DISPLAYS: tuple[Display, ...] = ("window", "window", "lut")
"""A DX object for presentation says how it is shown; a poor CR says nothing."""


@dataclass(frozen=True, slots=True)
class ExaminationInstance:
    """One DICOM file and what is worth saying of it."""

    content: bytes
    technique: Technique
    findings: Mapping[str, float]  # what it shows: finding -> extent; empty on films that show no findings of the chest


@dataclass(frozen=True, slots=True)
class Examination:
    """One study. `case` is what it was made from, where it is a simulated patient's; `truth` is None where nobody knows it."""

    study_instance_uid: str
    title: str
    instances: Sequence[ExaminationInstance]
    case: Case | None = None
    truth: GroundTruth | None = None


@dataclass(frozen=True, slots=True)
class ExaminationOrder:
    """A study that is to be taken: the case, and the technique of each film."""

    case: Case
    techniques: tuple[Technique, ...]


def draw_patient(number: int, seed: int) -> Patient:
    """Return the person of this number in the hospital of this seed."""
    return Patient(number, draw_body(np.random.default_rng([seed, number])))


def examine_patient(
    who: Patient,
    techniques: Sequence[Technique],
    *,
    seed: int,
    visit: int = 0,
    findings: Mapping[str, float] | None = None,
    size: tuple[int, int] = (512, 512),
) -> Examination:
    """Take the films of one study, one object for each technique, [rows, columns] = size."""
    root, equipment = (seed, who.number, visit), phantom.DEFAULT_SITE.equipment
    films = []
    for index, technique in enumerate(techniques):
        film_seed = int(np.random.default_rng([*root, index]).integers(2**31))
        if technique.view in ("PA", "AP"):
            films.append(phantom.take_frontal(film_seed, body=who.body, view=technique.view, findings=findings, size=size))
        else:
            films.append(_take_other_view(film_seed, technique, who, phantom.DEFAULT_SITE, size))
    return _build_examination(films, techniques, InstanceContext(root, who, visit, 0, equipment))


def examine_case(case: Case, techniques: Sequence[Technique] | None = None, *, size: tuple[int, int] = (512, 512)) -> Examination:
    """Take the study of a case, at its site, on its day; by default one frontal film, complete, from the site's DX machine.

    Its frontal film is the one that `population.film` gives. The study's UID belongs to the case.
    """
    site = SITES[case.site]
    who = Patient(case.number, case.body, case.site)
    ordered = techniques or (Technique(view=case.view, bits=site.equipment.dx_bits[0]),)
    films = [
        take_film(case, size=size) if technique.view == case.view else _take_other_view(case.seed, technique, who, site, size)
        for technique in ordered
    ]
    place = InstanceContext((case.key, case.seed), who, case.visit, 0, site.equipment)
    return replace(_build_examination(films, ordered, place), case=case, truth=GroundTruth(case.patient, frozenset(case.findings)))


def _take_other_view(seed: int, technique: Technique, who: Patient, site: Site, size: tuple[int, int]) -> phantom.SimulatedFilm:
    if technique.view == "LL":
        return other_films.lateral(seed, body=who.body, size=size, site=site)
    return other_films.OTHER_REGION_FILMS[technique.view](seed, size=size, site=site)


def _build_examination(
    films: Sequence[phantom.SimulatedFilm], techniques: Sequence[Technique], context: InstanceContext
) -> Examination:
    scans = []
    for index, (taken_film, technique) in enumerate(zip(films, techniques, strict=True)):
        image = dataset_from_film(taken_film, technique, replace(context, index=index))
        scans.append(ExaminationInstance(encode_file(image, technique.transfer_syntax), technique, taken_film.findings))
    return Examination(context.study_instance_uid, _compose_title(techniques), scans)


def _compose_title(techniques: Sequence[Technique]) -> str:
    parts = []
    for technique in techniques:
        region = technique.view.lower() if technique.view in OTHER_REGIONS else f"chest {technique.view}"
        header = "" if technique.header == "complete" else f", {technique.header} header"
        parts.append(f"{technique.modality} {region}, {technique.bits} bit, {technique.transfer_syntax.name.split(',')[0]}{header}")
    return "; ".join(parts)


def natural_orders(site: str, count: int, *, seed: int) -> list[ExaminationOrder]:
    """Return `count` studies of a site that are to be taken, in the order of `population.natural`. KeyError for an unknown site."""
    return [_draw_order(case, SITES[site].equipment) for case in natural_cases(site, count, seed=seed)]


def enriched_orders(site: str, count: int, *, seed: int) -> list[ExaminationOrder]:
    """Return `count` studies of a site in the order of time, so many of each finding that it can be measured.

    A share (NATURAL_SHARE) comes as it comes, patients with several studies among them; the others, one a patient, are chosen
    for the findings: each is had by a fourteenth of them at least. The prevalences are no hospital's. KeyError for an unknown site.
    """
    chosen = count - round(NATURAL_SHARE * count)
    cases = natural_cases(site, count - chosen, seed=seed) + enriched_cases(
        site, chosen, seed=seed, per_finding=chosen // len(FINDINGS)
    )
    return [_draw_order(case, SITES[site].equipment) for case in sorted(cases, key=lambda case: (case.day, case.key))]


def _draw_order(case: Case, equipment: SiteEquipment) -> ExaminationOrder:
    """Draw the techniques of a case as the site's machines and customs have it."""
    chance = np.random.default_rng([case.seed, 6])
    modality = "CR" if chance.random() < equipment.cr_share else "DX"
    header: HeaderKind = "complete"
    if modality == "CR":
        kinds: tuple[HeaderKind, ...] = ("poor", "sparse", "complete")
        rest = 1 - equipment.poor_share - equipment.sparse_share
        header = kinds[int(chance.choice(3, p=[equipment.poor_share, equipment.sparse_share, rest]))]
    technique = Technique(
        modality="CR" if modality == "CR" else "DX",
        view=case.view,
        bits=int(chance.choice(equipment.cr_bits if modality == "CR" else equipment.dx_bits)),
        photometric="MONOCHROME1" if chance.random() < equipment.inverted_share else "MONOCHROME2",
        display="none" if header == "poor" else DISPLAYS[int(chance.integers(len(DISPLAYS)))],
        transfer_syntax=TRANSFER_SYNTAXES[int(chance.integers(len(TRANSFER_SYNTAXES)))],
        header=header,
    )
    elsewhere, lateral = chance.random() < OTHER_REGION_SHARE, chance.random() < LATERAL_SHARE
    if elsewhere:
        view = OTHER_REGIONS[int(chance.integers(len(OTHER_REGIONS)))]
        return ExaminationOrder(replace(case, findings={}), (replace(technique, view=view, header="complete"),))
    if lateral and case.view == "PA" and header != "poor":
        return ExaminationOrder(case, (technique, replace(technique, view="LL")))
    return ExaminationOrder(case, (technique,))


def take_studies(
    orders: Sequence[ExaminationOrder], *, size: tuple[int, int] = (512, 512), workers: int = 1
) -> Generator[Examination, None, None]:
    """Take studies in their order; in `workers` spawned processes where there are two or more (see `population.films`)."""
    return map_in_processes(partial(_take_study, size=size), orders, workers=workers)


def _take_study(order: ExaminationOrder, *, size: tuple[int, int]) -> Examination:
    return examine_case(order.case, order.techniques, size=size)


def site_examinations(
    site: str, count: int, *, seed: int, size: tuple[int, int] = (512, 512), workers: int = 1
) -> list[Examination]:
    """Return an archive's worth of studies of one site.

    Several studies of a patient over time, laterals beside frontals, about one study in twenty of another region; DX and CR of
    the site's machines, some with poor headers. KeyError for an unknown site.
    """
    return list(take_studies(natural_orders(site, count, seed=seed), size=size, workers=workers))


VARIED_STUDIES: tuple[tuple[tuple[Technique, ...], Mapping[str, float]], ...] = (
    ((Technique(),), {}),
    (
        (Technique(modality="CR", photometric="MONOCHROME1", transfer_syntax=JPEGLSLossless, header="poor", display="none"),),
        {"Effusion": 0.6},
    ),
    (
        (Technique(view="PA", bits=14, transfer_syntax=JPEG2000Lossless, display="lut"), Technique(view="LL", bits=14)),
        {"Mass": 0.6},
    ),
    ((Technique(view="AP", bits=16, transfer_syntax=RLELossless),), {"Cardiomegaly": 0.7, "Edema": 0.5}),
    ((Technique(modality="CR", view="KNEE", transfer_syntax=ImplicitVRLittleEndian),), {}),
    (
        (Technique(modality="CR", view="AP", photometric="MONOCHROME1", transfer_syntax=ImplicitVRLittleEndian),),
        {"Pneumothorax": 0.6},
    ),
    ((Technique(view="LL", transfer_syntax=DeflatedExplicitVRLittleEndian),), {}),
    ((Technique(photometric="MONOCHROME1", bits=14, transfer_syntax=JPEGLSLossless, display="lut"),), {"Consolidation": 0.7}),
    ((Technique(modality="CR", bits=14, display="lut", transfer_syntax=JPEG2000Lossless),), {"Nodule": 0.8}),
)
"""What a day brings: techniques and findings of study 1, 2, 3, ...; then again from the start with other patients."""

RETURN_INTERVAL = 5
"""Every so many studies a patient comes again."""


def varied_examinations(count: int, *, seed: int = 0, size: tuple[int, int] = (512, 512)) -> list[Examination]:
    """Examine a day's patients: `count` studies, varied in patient, technique, header and finding; some must be ignored."""
    studies = []
    for index in range(count):
        techniques, findings = VARIED_STUDIES[index % len(VARIED_STUDIES)]
        returning = index % RETURN_INTERVAL == RETURN_INTERVAL - 2 and index > 0
        number = index if returning else index + 1
        if index >= len(VARIED_STUDIES):
            techniques = tuple(replace(technique, bits=min(16, technique.bits + 1)) for technique in techniques)
        who = draw_patient(number, seed)
        studies.append(examine_patient(who, techniques, seed=seed, visit=int(returning), findings=findings, size=size))
    return studies
