"""What a reader has said at the desk -> an SR of that person: TID 1500 with a measurement group for each finding.

No device of ours stands in it: whoever receives it reads the statements of a person. A place that the reader has marked is a point
on the film (TID 1410).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np
from highdicom.sr import (
    FindingSite,
    GraphicTypeValues,
    ImageRegion,
    LanguageOfContentItemAndDescendants,
    MeasurementReport,
    MeasurementsAndQualitativeEvaluations,
    ObservationContext,
    ObserverContext,
    PersonObserverIdentifyingAttributes,
    PlanarROIMeasurementsAndQualitativeEvaluations,
    QualitativeEvaluation,
    SourceImageForMeasurementGroup,
    SourceImageForRegion,
    TrackingIdentifier,
)
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items

from adapters.dicom.image import part10
from adapters.dicom.sr import codes
from adapters.dicom.sr.codes import finding_codes
from adapters.dicom.sr.dataset_template import UTF_8, encode_dataset
from adapters.dicom.sr.document import SR_CLASS_UIDS, SR_DOCUMENTS, ReportSettings, build_coding_scheme_item, translated_errors
from adapters.dicom.sr.evidence import evidence_of
from adapters.dicom.sr.tid1500 import LONG_STRING, ImageReference, build_section, build_text, separate_items
from adapters.dicom.sr.uids import derived_uid, tracking_uid
from pipeline.domain import Decision, LabelState, ReaderDocument, StoredInstance
from pipeline.errors import ReportImpossible
from pipeline.ports.services import ImageStore

MODEL_NAME = "radclipd desk"
"""ManufacturerModelName: other than that of the model's own reports, which are never read for labels."""
SERIES_OFFSET = 10
"""Distance of the Series Number from that of the model's reports."""
LANGUAGE = "en"
TITLE = codes.concept("READER-CHEST", codes.PRIVATE_SCHEME, "Chest findings of a reader")
STATES = {
    LabelState.PRESENT: codes.DECISIONS[Decision.PRESENT],
    LabelState.ABSENT: codes.DECISIONS[Decision.ABSENT],
    LabelState.UNCERTAIN: codes.DECISIONS[Decision.UNDETERMINED],
}
_Group = MeasurementsAndQualitativeEvaluations | PlanarROIMeasurementsAndQualitativeEvaluations


class ReaderSrWriter:
    """`ports.services.ReaderDocumentWriter` by highdicom."""

    def __init__(self, settings: ReportSettings, store: ImageStore) -> None:
        self._settings, self._store = settings, store

    def write_document(self, document: ReaderDocument, images: Sequence[StoredInstance]) -> bytes:
        if not images or not document.states:
            raise ReportImpossible(f"study {document.study_instance_uid} has no frontal film, or nothing was said of it")
        with translated_errors(document.study_instance_uid):
            evidence = [evidence_of(self._store.read(instance.file)) for instance in images]
            built = self._build_document(document, evidence)
            return part10.file_bytes(
                encode_dataset(built),
                sop_class_uid=built.SOPClassUID,
                sop_instance_uid=built.SOPInstanceUID,
                transfer_syntax_uid=built.file_meta.TransferSyntaxUID,
            )

    def _build_document(self, document: ReaderDocument, evidence: Sequence[Dataset]) -> Dataset:
        settings = self._settings
        study, sop_class = document.study_instance_uid, SR_CLASS_UIDS[settings.sop_class]
        built: Dataset = SR_DOCUMENTS[sop_class](
            evidence=evidence,
            content=_build_content(document, evidence, settings.uid_root),
            series_instance_uid=_derive_series_uid(document, settings),
            series_number=settings.series_number + SERIES_OFFSET,
            sop_instance_uid=document.sop_instance_uid,
            instance_number=1,
            manufacturer=settings.manufacturer,
            institution_name=settings.institution_name or None,
            is_complete=True,
            is_final=False,
            is_verified=False,
            series_description=f"Reader's findings - {document.reader}"[:LONG_STRING],
            specific_character_set=UTF_8,
        )
        built.ManufacturerModelName = MODEL_NAME
        built.CodingSchemeIdentificationSequence = Items([build_coding_scheme_item()])
        _set_times(built, document.stated_at)
        if document.predecessor is not None:
            reference = _build_reference(study, built.SeriesInstanceUID, sop_class, document.predecessor)
            built.PredecessorDocumentsSequence = Items([reference])
        return built


def _build_content(document: ReaderDocument, evidence: Sequence[Dataset], uid_root: str) -> Dataset:
    person = PersonObserverIdentifyingAttributes(name=document.reader)
    images = [(image.SOPClassUID, image.SOPInstanceUID) for image in evidence]
    groups = [_build_group(document, finding, images, uid_root) for finding in finding_codes() if finding in document.states]
    tree = MeasurementReport(
        observation_context=ObservationContext(observer_person_context=ObserverContext(codes.PERSON, person)),
        procedure_reported=codes.IMAGING_PROCEDURE,
        imaging_measurements=groups,
        title=TITLE,
        language_of_content_item_and_descendants=LanguageOfContentItemAndDescendants(codes.language_code(LANGUAGE)),
        referenced_images=[image for image in evidence if "Rows" in image and "Columns" in image] or None,
    )
    root: Dataset = tree[0]
    if document.comment.strip():
        root.ContentSequence.append(build_section(codes.SUMMARY, [build_text(codes.COMMENT, document.comment.strip())]))
    separate_items(root)
    return root


def _build_group(document: ReaderDocument, finding: str, images: Sequence[ImageReference], uid_root: str) -> _Group:
    """Return TID 1501, or TID 1410 with the marked place: a point on the first frontal film."""
    code, point = finding_codes()[finding], document.points.get(finding)
    tracking = derived_uid(uid_root, "reader", tracking_uid(uid_root, document.study_instance_uid, finding), document.reader)
    common: dict[str, object] = {
        "tracking_identifier": TrackingIdentifier(uid=tracking, identifier=f"{document.reader}/{finding}"[:LONG_STRING]),
        "finding_type": code.concept,
        "finding_sites": [FindingSite(anatomic_location=code.site)],
        "qualitative_evaluations": [QualitativeEvaluation(name=code.concept, value=STATES[document.states[finding]])],
    }
    if point is None:
        sources = [SourceImageForMeasurementGroup(*image) for image in images]
        return MeasurementsAndQualitativeEvaluations(**common, source_images=sources)  # type: ignore[arg-type]  # as above
    place = ImageRegion(GraphicTypeValues.POINT, np.array([point], dtype=np.float32), SourceImageForRegion(*images[0]))
    return PlanarROIMeasurementsAndQualitativeEvaluations(**common, referenced_region=place)  # type: ignore[arg-type]  # as above


def _derive_series_uid(document: ReaderDocument, settings: ReportSettings) -> str:
    return derived_uid(settings.uid_root, "reader series", document.study_instance_uid, document.reader)


def _set_times(built: Dataset, stated_at: datetime) -> None:
    """Date the document by the reader's statement, in local time with its offset."""
    moment = stated_at.astimezone(UTC).astimezone()
    built.ContentDate, built.ContentTime = moment.strftime("%Y%m%d"), moment.strftime("%H%M%S.%f")
    built.SeriesDate, built.SeriesTime = built.ContentDate, built.ContentTime
    built.TimezoneOffsetFromUTC = moment.strftime("%z")


def _build_reference(study: str, series_uid: str, sop_class: str, sop_instance_uid: str) -> Dataset:
    """Return a Hierarchical SOP Instance Reference (PS3.3 table 10-3a) to a document of the same reader."""
    instance, series, item = Dataset(), Dataset(), Dataset()
    instance.ReferencedSOPClassUID, instance.ReferencedSOPInstanceUID = sop_class, sop_instance_uid
    series.SeriesInstanceUID, series.ReferencedSOPSequence = series_uid, Items([instance])
    item.StudyInstanceUID, item.ReferencedSeriesSequence = study, Items([series])
    return item
