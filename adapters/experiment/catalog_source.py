"""Source: the labelled studies of the hospital's own archive, one frontal film each, split by patient."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from adapters.datasets.nih import parse_age
from adapters.experiment.case_source import SPLIT_SEED, TEST_SHARE, CaseSource, build_cases
from adapters.ml.error_translation import translate_model_errors
from models.evaluation.cases import Cases, Split
from models.experiment.splits import split_by_patient
from pipeline.consensus import LabelPolicy, resolve_consensus, select_blind_labels
from pipeline.domain import Image, StoredInstance
from pipeline.errors import PermanentError
from pipeline.ports.images import ImageReader
from pipeline.ports.services import Catalog
from pipeline.rules import ChestPolicy, choose_images

SELECTION_BIAS_NOTE = (
    "The studies are those that somebody labelled, which is no random sample of the archive: prevalences, and figures that depend "
    "on them, are of the labelled studies."
)


@dataclass(frozen=True, slots=True)
class _LabelledStudy:
    """One study with a label and a frontal film."""

    study_instance_uid: str
    patient: str
    instance: StoredInstance
    labels: npt.NDArray[np.int8]


def catalog_source(catalog: Catalog, reader: ImageReader, *, chest: ChestPolicy, labels: LabelPolicy) -> CaseSource:
    """Return the labelled studies of a catalog. `labels` resolves disagreements; uncertain and missing labels are unknown.

    PermanentError without labelled studies, or where the labelled patients fill only one side of the split.
    """
    studies, without_film = _select_studies(catalog, chest, labels)
    if not studies:
        raise PermanentError("no study of this catalog has both a label and a frontal film", hint="label a few studies first")
    headers = [study.instance.header for study in studies]
    cases = build_cases(
        key=[study.study_instance_uid for study in studies],
        patient=[study.patient for study in studies],
        labels=np.stack([study.labels for study in studies]),
        age=[parse_age(header.patient_age) for header in headers],
        sex=[header.patient_sex if header.patient_sex in ("M", "F") else "" for header in headers],
        view=[header.view_position if header.view_position in ("PA", "AP") else "" for header in headers],
    )

    def film(row: int) -> Image:
        return reader.read(studies[row].instance)

    def split(of: Cases) -> Split:
        with translate_model_errors():
            return split_by_patient(of, test_share=TEST_SHARE, seed=SPLIT_SEED)

    return CaseSource(
        kind="catalog",
        title=f"the catalog: {len(studies)} labelled studies of {len(np.unique(cases.patient))} patients",
        cases=cases,
        identity={"films": [study.instance.file.sha256 for study in studies]},
        film_keys=[study.instance.file.sha256 for study in studies],
        read_film=film,
        split=split,
        split_description=f"by patient hash, {TEST_SHARE:.0%} of the patients tested",
        left_out_counts={"labelled studies without a frontal film": without_film},
        notes=(SELECTION_BIAS_NOTE,),
    )


def _select_studies(catalog: Catalog, chest: ChestPolicy, policy: LabelPolicy) -> tuple[list[_LabelledStudy], int]:
    """Return the labelled studies with their first frontal film, and the number without one."""
    found: list[_LabelledStudy] = []
    with catalog.read() as transaction:
        resolution = resolve_consensus(select_blind_labels(transaction.labels.all()), policy)
        patients = transaction.studies.patient_keys(resolution.studies)
        instances = transaction.studies.instances_of(resolution.studies)
        for uid, targets in zip(resolution.studies, resolution.targets(resolution.studies), strict=True):
            films = choose_images(instances.get(uid, []), chest).images
            if films:
                found.append(_LabelledStudy(uid, patients[uid], films[0], targets))
    return found, len(resolution.studies) - len(found)
