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
from adapters.dicom.sr.dataset_template import CONTENT_SEQUENCE, Form, encoded, item, sequence
from adapters.dicom.sr.tid1500 import evaluation_of, group_of, in_words, measurement_report, score_of
from pipeline.domain import FINDINGS, Decision, ModelVersion, Prediction

ANY_UID = "1.2.3"
ANY_IMAGE = ("1.2.840.10008.5.1.4.1.1.1.1", ANY_UID)
"""In the place of what a study fills in."""


class ReportForm:
    """The content tree of a version's reports, with blanks. `version` is whose it is, in full: any change asks for another form."""

    def __init__(self, version: ModelVersion, observer: ObserverContext) -> None:
        self.version = version
        made = [group_of(Prediction(finding, 0.5, Decision.PRESENT), version, ANY_UID, [ANY_IMAGE]) for finding in FINDINGS]
        root = measurement_report(observer, made, [])
        *first, measurements = root.ContentSequence
        self.root: Dataset = root[:CONTENT_SEQUENCE]
        self.root.ContentSequence = Items()
        self._first = [item(encoded(above)) for above in first]
        self._measurements = _Container(measurements)
        self._groups = {finding: _GroupForm(finding, group) for finding, group in zip(FINDINGS, made, strict=True)}
        self._image = Form(_of_type(made[0], "IMAGE")[0], ("ReferencedSOPClassUID", "ReferencedSOPInstanceUID"))

    def filled(self, images: Sequence[Dataset], told: Sequence[Prediction], tracking_uid: Callable[[str], str]) -> bytes:
        """Return the encoded Content Sequence of one document. `images`: headers of the scored films."""
        references = [
            item(self._image.filled(ReferencedSOPClassUID=image.SOPClassUID, ReferencedSOPInstanceUID=image.SOPInstanceUID))
            for image in images
        ]
        groups = [
            self._groups[one.finding].filled(
                tracking_uid(one.finding), score_of(one, calibrated=self.version.calibrated), one.decision, references
            )
            for one in told
        ]
        library = [item(encoded(part)) for part in ImageLibrary(images)]
        words = item(encoded(in_words(self.version, told)))
        return sequence(CONTENT_SEQUENCE, [*self._first, *library, self._measurements.holding(groups), words])


class _Container:
    """A CONTAINER (PS3.3 C.17.3.2.4): all that it says itself stands before what it contains."""

    def __init__(self, container: Dataset) -> None:
        self._said = encoded(container[:CONTENT_SEQUENCE])

    def holding(self, items: Iterable[bytes]) -> bytes:
        return item(self._said + sequence(CONTENT_SEQUENCE, items))


class _GroupForm:
    """A measurement group: most of its items name the algorithm and are the same for every study."""

    def __init__(self, finding: str, group: MeasurementsAndQualitativeEvaluations) -> None:
        self._container = _Container(group[0])
        self._tracking = Form(_of_type(group, "UIDREF")[0], ("UID",))
        self._number = Form(_of_type(group, "NUM")[0], ("NumericValue", "FloatingPointValue"))
        self._decisions = {decision: item(encoded(evaluation_of(finding, decision)[0])) for decision in codes.DECISIONS}
        present = self._decisions[Decision.PRESENT]
        self._items: list[bytes | str] = []
        for one in group[0].ContentSequence:
            written = item(encoded(one))
            if written == present:
                self._items.append("DECISION")
            else:
                self._items.append(one.ValueType if one.ValueType in ("UIDREF", "NUM", "IMAGE") else written)

    def filled(self, tracking_uid: str, score: float, decision: Decision, references: Sequence[bytes]) -> bytes:
        own = {
            "UIDREF": item(self._tracking.filled(UID=tracking_uid)),
            "NUM": item(self._number.filled(NumericValue=score, FloatingPointValue=score)),
            "DECISION": self._decisions[decision],
            "IMAGE": b"".join(references),
        }
        return self._container.holding(own[one] if isinstance(one, str) else one for one in self._items)


def _of_type(group: MeasurementsAndQualitativeEvaluations, value_type: str) -> list[Dataset]:
    return [one for one in group[0].ContentSequence if one.ValueType == value_type]
