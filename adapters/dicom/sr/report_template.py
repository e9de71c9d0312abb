"""What the reports of one model version have in common, encoded once: highdicom makes the items, each study fills in its own.

A study brings tracking UIDs, scores, decisions and references to its films. Its image library and the headline of the document come
from its films' headers, no two of which are alike; those are made anew each time.
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
from pipeline.domain import FINDINGS, Decision, ModelVersion, Prediction

PLACEHOLDER_UID = "1.2.3"
PLACEHOLDER_IMAGE = ("1.2.840.10008.5.1.4.1.1.1.1", PLACEHOLDER_UID)
"""In the place of what a study fills in."""


class ReportTemplate:
    """The content tree of a version's reports, with blanks. `version` is whose it is, in full: any change asks for another form."""

    def __init__(self, version: ModelVersion, observer: ObserverContext) -> None:
        self.version = version
        made = [
            build_measurement_group(Prediction(finding, 0.5, Decision.PRESENT), version, PLACEHOLDER_UID, [PLACEHOLDER_IMAGE])
            for finding in FINDINGS
        ]
        root = build_measurement_report(observer, made, [])
        *first, measurements = root.ContentSequence
        self.root: Dataset = root[:CONTENT_SEQUENCE]
        self.root.ContentSequence = Items()
        self._first = [encode_item(encode_dataset(above)) for above in first]
        self._measurements = _ContainerTemplate(measurements)
        self._groups = {finding: _GroupTemplate(finding, group) for finding, group in zip(FINDINGS, made, strict=True)}
        self._image = DatasetTemplate(_select_items(made[0], "IMAGE")[0], ("ReferencedSOPClassUID", "ReferencedSOPInstanceUID"))

    def fill(self, images: Sequence[Dataset], predictions: Sequence[Prediction], tracking_uid: Callable[[str], str]) -> bytes:
        """Return the encoded Content Sequence of one document. `images`: headers of the scored films."""
        references = [
            encode_item(self._image.fill(ReferencedSOPClassUID=image.SOPClassUID, ReferencedSOPInstanceUID=image.SOPInstanceUID))
            for image in images
        ]
        groups = [
            self._groups[one.finding].fill(
                tracking_uid(one.finding), reported_score(one, calibrated=self.version.calibrated), one.decision, references
            )
            for one in predictions
        ]
        library = [encode_item(encode_dataset(part)) for part in ImageLibrary(images)]
        words = encode_item(encode_dataset(build_summary_text(self.version, predictions)))
        return encode_sequence(CONTENT_SEQUENCE, [*self._first, *library, self._measurements.fill(groups), words])


class _ContainerTemplate:
    """A CONTAINER (PS3.3 C.17.3.2.4): all that it says itself stands before what it contains."""

    def __init__(self, container: Dataset) -> None:
        self._said = encode_dataset(container[:CONTENT_SEQUENCE])

    def fill(self, items: Iterable[bytes]) -> bytes:
        return encode_item(self._said + encode_sequence(CONTENT_SEQUENCE, items))


class _GroupTemplate:
    """A measurement group: most of its items name the algorithm and are the same for every study."""

    def __init__(self, finding: str, group: MeasurementsAndQualitativeEvaluations) -> None:
        self._container = _ContainerTemplate(group[0])
        self._tracking = DatasetTemplate(_select_items(group, "UIDREF")[0], ("UID",))
        self._number = DatasetTemplate(_select_items(group, "NUM")[0], ("NumericValue", "FloatingPointValue"))
        self._decisions = {
            decision: encode_item(encode_dataset(build_evaluation(finding, decision)[0])) for decision in codes.DECISIONS
        }
        present = self._decisions[Decision.PRESENT]
        self._items: list[bytes | str] = []
        for one in group[0].ContentSequence:
            written = encode_item(encode_dataset(one))
            if written == present:
                self._items.append("DECISION")
            else:
                self._items.append(one.ValueType if one.ValueType in ("UIDREF", "NUM", "IMAGE") else written)

    def fill(self, tracking_uid: str, score: float, decision: Decision, references: Sequence[bytes]) -> bytes:
        own = {
            "UIDREF": encode_item(self._tracking.fill(UID=tracking_uid)),
            "NUM": encode_item(self._number.fill(NumericValue=score, FloatingPointValue=score)),
            "DECISION": self._decisions[decision],
            "IMAGE": b"".join(references),
        }
        return self._container.fill(own[one] if isinstance(one, str) else one for one in self._items)


def _select_items(group: MeasurementsAndQualitativeEvaluations, value_type: str) -> list[Dataset]:
    return [one for one in group[0].ContentSequence if one.ValueType == value_type]
