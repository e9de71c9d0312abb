"""Radiography room: examinations of simulated patients as DICOM files.

`varied_examinations` gives a few studies with different techniques, for demonstrations and tests. `site_examinations` gives the
archive of one site: a population (`population.natural_cases`) with laterals, films of other regions, and the site's equipment. The
findings of a film are in `Examination` and `ExaminationInstance`, never in the file.
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
from adapters.simulator.sites import Site
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
"""Share of natural (unselected) studies in an enriched archive."""
LATERAL_SHARE = 0.4
"""Share of PA studies with an additional lateral film."""
OTHER_REGION_SHARE = 0.05
"""Share of studies of another body region."""
OTHER_REGIONS = ("KNEE", "HAND", "ABDOMEN")
TRANSFER_SYNTAXES = (
    ExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEGLSLossless,
    JPEG2000Lossless,
    RLELossless,
    ImplicitVRLittleEndian,
)
"""Transfer syntaxes of an archive; the most frequent is listed twice."""
DISPLAYS: tuple[Display, ...] = ("window", "window", "lut")
"""VOI transformations of DX objects for presentation; a CR object with a poor header has none."""


@dataclass(frozen=True, slots=True)
class ExaminationInstance:
    """One DICOM file with its technique and findings."""

    content: bytes
    technique: Technique
    findings: Mapping[str, float]  # finding -> extent; empty for films without chest findings


@dataclass(frozen=True, slots=True)
class Examination:
    """One study. `case` is its source for a simulated patient; `truth` is None where unknown."""

    study_instance_uid: str
    title: str
    instances: Sequence[ExaminationInstance]
    case: Case | None = None
    truth: GroundTruth | None = None


@dataclass(frozen=True, slots=True)
class ExaminationOrder:
    """Order of a study: the case, and the technique of each film."""

    case: Case
    techniques: tuple[Technique, ...]


def draw_patient(number: int, seed: int) -> Patient:
    """Return the patient of this number in the hospital of this seed."""
    return Patient(number, draw_body(np.random.default_rng([seed, number])))


def examine_patient(
    patient: Patient,
    techniques: Sequence[Technique],
    *,
    seed: int,
    visit: int = 0,
    findings: Mapping[str, float] | None = None,
    size: tuple[int, int] = (512, 512),
) -> Examination:
    """Take the films of one study, one object per technique, [rows, columns] = size."""
    root, equipment = (seed, patient.number, visit), phantom.DEFAULT_SITE.equipment
    films = []
    for index, technique in enumerate(techniques):
        film_seed = int(np.random.default_rng([*root, index]).integers(2**31))
        if technique.view in ("PA", "AP"):
            films.append(phantom.take_frontal(film_seed, body=patient.body, view=technique.view, findings=findings, size=size))
        else:
            films.append(_take_other_view(film_seed, technique, patient, phantom.DEFAULT_SITE, size))
    return _build_examination(films, techniques, InstanceContext(root, patient, visit, 0, equipment))


def examine_case(case: Case, techniques: Sequence[Technique] | None = None, *, size: tuple[int, int] = (512, 512)) -> Examination:
    """Take the study of a case, at its site, on its day; by default one frontal film, complete, from the site's DX machine.

    Its frontal film is that of `population.take_film`. The Study Instance UID is derived from the case.
    """
    site = case.hospital
    patient = Patient(case.number, case.body, case.site)
    ordered = techniques or (Technique(view=case.view, bits=site.equipment.dx_bits[0]),)
    films = [
        take_film(case, size=size) if technique.view == case.view else _take_other_view(case.seed, technique, patient, site, size)
        for technique in ordered
    ]
    context = InstanceContext((case.key, case.seed), patient, case.visit, 0, site.equipment)
    return replace(
        _build_examination(films, ordered, context), case=case, truth=GroundTruth(case.patient, frozenset(case.findings))
    )


def _take_other_view(seed: int, technique: Technique, patient: Patient, site: Site, size: tuple[int, int]) -> phantom.SimulatedFilm:
    if technique.view == "LL":
        return other_films.lateral(seed, body=patient.body, size=size, site=site)
    return other_films.OTHER_REGION_FILMS[technique.view](seed, size=size, site=site)


def _build_examination(
    films: Sequence[phantom.SimulatedFilm], techniques: Sequence[Technique], context: InstanceContext
) -> Examination:
    instances = []
    for index, (taken_film, technique) in enumerate(zip(films, techniques, strict=True)):
        image = dataset_from_film(taken_film, technique, replace(context, index=index))
        instances.append(ExaminationInstance(encode_file(image, technique.transfer_syntax), technique, taken_film.findings))
    return Examination(context.study_instance_uid, _compose_title(techniques), instances)


def _compose_title(techniques: Sequence[Technique]) -> str:
    parts = []
    for technique in techniques:
        region = technique.view.lower() if technique.view in OTHER_REGIONS else f"chest {technique.view}"
        header = "" if technique.header == "complete" else f", {technique.header} header"
        parts.append(f"{technique.modality} {region}, {technique.bits} bit, {technique.transfer_syntax.name.split(',')[0]}{header}")
    return "; ".join(parts)


def natural_orders(site: Site | str, count: int, *, seed: int) -> list[ExaminationOrder]:
    """Return the orders of `count` studies of a site, in the order of `population.natural_cases`. KeyError for an unknown site."""
    return [_draw_order(case) for case in natural_cases(site, count, seed=seed)]


def enriched_orders(site: Site | str, count: int, *, seed: int) -> list[ExaminationOrder]:
    """Return the orders of `count` studies of a site in chronological order, enriched so that every finding can be measured.

    A share (NATURAL_SHARE) is unselected and includes patients with several studies; the others, one per patient, are selected by
    finding: at least a fourteenth of them has each. Prevalences are not those of a hospital. KeyError for an unknown site.
    """
    chosen = count - round(NATURAL_SHARE * count)
    cases = natural_cases(site, count - chosen, seed=seed) + enriched_cases(
        site, chosen, seed=seed, per_finding=chosen // len(FINDINGS)
    )
    return [_draw_order(case) for case in sorted(cases, key=lambda case: (case.day, case.key))]


def _draw_order(case: Case) -> ExaminationOrder:
    """Draw the techniques of a case from the equipment of its site."""
    equipment = case.hospital.equipment
    rng = np.random.default_rng([case.seed, 6])
    modality = "CR" if rng.random() < equipment.cr_share else "DX"
    header: HeaderKind = "complete"
    if modality == "CR":
        kinds: tuple[HeaderKind, ...] = ("poor", "sparse", "complete")
        rest = 1 - equipment.poor_share - equipment.sparse_share
        header = kinds[int(rng.choice(3, p=[equipment.poor_share, equipment.sparse_share, rest]))]
    technique = Technique(
        modality="CR" if modality == "CR" else "DX",
        view=case.view,
        bits=int(rng.choice(equipment.cr_bits if modality == "CR" else equipment.dx_bits)),
        photometric="MONOCHROME1" if rng.random() < equipment.inverted_share else "MONOCHROME2",
        display="none" if header == "poor" else DISPLAYS[int(rng.integers(len(DISPLAYS)))],
        transfer_syntax=TRANSFER_SYNTAXES[int(rng.integers(len(TRANSFER_SYNTAXES)))],
        header=header,
    )
    other_region, lateral = rng.random() < OTHER_REGION_SHARE, rng.random() < LATERAL_SHARE
    if other_region:
        view = OTHER_REGIONS[int(rng.integers(len(OTHER_REGIONS)))]
        return ExaminationOrder(replace(case, findings={}), (replace(technique, view=view, header="complete"),))
    if lateral and case.view == "PA" and header != "poor":
        return ExaminationOrder(case, (technique, replace(technique, view="LL")))
    return ExaminationOrder(case, (technique,))


def take_studies(
    orders: Sequence[ExaminationOrder], *, size: tuple[int, int] = (512, 512), workers: int = 1
) -> Generator[Examination, None, None]:
    """Take studies in order, in `workers` spawned processes where there are two or more (see `population.take_films`)."""
    return map_in_processes(partial(_take_study, size=size), orders, workers=workers)


def _take_study(order: ExaminationOrder, *, size: tuple[int, int]) -> Examination:
    return examine_case(order.case, order.techniques, size=size)


def site_examinations(
    site: str, count: int, *, seed: int, size: tuple[int, int] = (512, 512), workers: int = 1
) -> list[Examination]:
    """Return the archive of one site: `count` studies.

    Some patients have several studies over time, some frontal films a lateral; about one study in twenty shows another region. DX
    and CR of the site's equipment, some with poor headers. KeyError for an unknown site.
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
"""Techniques and findings of study 1, 2, 3, ...; repeated with other patients."""

RETURN_INTERVAL = 5
"""Number of studies between those of a returning patient."""


def varied_examinations(count: int, *, seed: int = 0, size: tuple[int, int] = (512, 512)) -> list[Examination]:
    """Return `count` studies varied in patient, technique, header and finding; the daemon must ignore some of them."""
    studies = []
    for index in range(count):
        techniques, findings = VARIED_STUDIES[index % len(VARIED_STUDIES)]
        returning = index % RETURN_INTERVAL == RETURN_INTERVAL - 2 and index > 0
        number = index if returning else index + 1
        if index >= len(VARIED_STUDIES):
            techniques = tuple(replace(technique, bits=min(16, technique.bits + 1)) for technique in techniques)
        patient = draw_patient(number, seed)
        studies.append(examine_patient(patient, techniques, seed=seed, visit=int(returning), findings=findings, size=size))
    return studies
