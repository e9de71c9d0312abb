"""The common part of all reports of one model version, built by highdicom, encoded once and filled in for each study.

A study supplies tracking UIDs, scores, decisions and references to its images. Its image library and the document's header come
from the headers of its images and are built for each report.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from highdicom.sr import ImageLibrary, MeasurementsAndQualitativeEvaluations, ObserverContext
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items

from adapters.dicom.sr import codes
from adapters.dicom.sr.dataset_template import CONTENT_SEQUENCE, DatasetTemplate, encode_dataset, encode_item, encode_sequence
from adapters.dicom.sr.tid1500 import (
    build_evaluation,
    build_measurement_group,
    build_measurement_report,
    build_summary_text,
    reported_score,
)
from pipeline.decisions import scale_of
from pipeline.domain import FINDINGS, Decision, ModelVersion, Prediction

PLACEHOLDER_UID = "1.2.3"
PLACEHOLDER_IMAGE = ("1.2.840.10008.5.1.4.1.1.1.1", PLACEHOLDER_UID)
"""Stand in for the values of a study."""


class ReportTemplate:
    """The content tree of a version's reports, with blanks. A change of any field of `version` requires a new template."""

    def __init__(self, version: ModelVersion, observer: ObserverContext) -> None:
        self.version = version
        groups = [
            build_measurement_group(_fill_in(version, finding), version, PLACEHOLDER_UID, [PLACEHOLDER_IMAGE])
            for finding in FINDINGS
        ]
        root = build_measurement_report(observer, groups, [])
        *leading, measurements = root.ContentSequence
        self.root: Dataset = root[:CONTENT_SEQUENCE]
        self.root.ContentSequence = Items()
        self._leading_items = [encode_item(encode_dataset(item)) for item in leading]
        self._measurements = _ContainerTemplate(measurements)
        self._groups = {finding: _GroupTemplate(finding, group) for finding, group in zip(FINDINGS, groups, strict=True)}
        self._image = DatasetTemplate(_select_items(groups[0], "IMAGE")[0], ("ReferencedSOPClassUID", "ReferencedSOPInstanceUID"))

    def fill(self, images: Sequence[Dataset], predictions: Sequence[Prediction], tracking_uid: Callable[[str], str]) -> bytes:
        """Return the encoded Content Sequence of one document. `images`: headers of the scored images."""
        references = [
            encode_item(self._image.fill(ReferencedSOPClassUID=image.SOPClassUID, ReferencedSOPInstanceUID=image.SOPInstanceUID))
            for image in images
        ]
        groups = [
            self._groups[prediction.finding].fill(
                tracking_uid(prediction.finding),
                reported_score(prediction),
                prediction.decision,
                references,
            )
            for prediction in predictions
        ]
        described = [image for image in images if "Rows" in image and "Columns" in image]
        library = [encode_item(encode_dataset(part)) for part in (ImageLibrary(described) if described else ())]
        summary = encode_item(encode_dataset(build_summary_text(self.version, predictions)))
        return encode_sequence(CONTENT_SEQUENCE, [*self._leading_items, *library, self._measurements.fill(groups), summary])


class _ContainerTemplate:
    """A CONTAINER (PS3.3 C.17.3.2.4): its own elements all precede its Content Sequence."""

    def __init__(self, container: Dataset) -> None:
        self._own_elements = encode_dataset(container[:CONTENT_SEQUENCE])

    def fill(self, items: Iterable[bytes]) -> bytes:
        return encode_item(self._own_elements + encode_sequence(CONTENT_SEQUENCE, items))


class _GroupTemplate:
    """A measurement group: most of its items describe the algorithm and are equal for every study."""

    def __init__(self, finding: str, group: MeasurementsAndQualitativeEvaluations) -> None:
        self._container = _ContainerTemplate(group[0])
        self._tracking = DatasetTemplate(_select_items(group, "UIDREF")[0], ("UID",))
        self._number = DatasetTemplate(_select_items(group, "NUM")[0], ("NumericValue", "FloatingPointValue"))
        self._decisions = {
            decision: encode_item(encode_dataset(build_evaluation(finding, decision)[0])) for decision in codes.DECISIONS
        }
        present = self._decisions[Decision.PRESENT]
        self._items: list[bytes | str] = []
        for item in group[0].ContentSequence:
            encoded = encode_item(encode_dataset(item))
            if encoded == present:
                self._items.append("DECISION")
            else:
                self._items.append(item.ValueType if item.ValueType in ("UIDREF", "NUM", "IMAGE") else encoded)

    def fill(self, tracking_uid: str, score: float, decision: Decision, references: Sequence[bytes]) -> bytes:
        is_assessed = decision is not Decision.NOT_ASSESSED  # else there is neither a number nor a presence
        filled = {
            "UIDREF": encode_item(self._tracking.fill(UID=tracking_uid)),
            "NUM": encode_item(self._number.fill(NumericValue=score, FloatingPointValue=score)) if is_assessed else b"",
            "DECISION": self._decisions[decision] if is_assessed else b"",
            "IMAGE": b"".join(references),
        }
        return self._container.fill(filled[item] if isinstance(item, str) else item for item in self._items)


def _fill_in(version: ModelVersion, finding: str) -> Prediction:
    return Prediction(finding, 0.5, Decision.PRESENT, scale_of(version, finding))


def _select_items(group: MeasurementsAndQualitativeEvaluations, value_type: str) -> list[Dataset]:
    return [item for item in group[0].ContentSequence if item.ValueType == value_type]
