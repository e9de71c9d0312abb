"""A study's statement -> its SR (TID 1500, a measurement group for each assessed finding) and its visible objects."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial

from highdicom.sr import ObserverContext
from pydicom.dataset import Dataset

from adapters.dicom.sr.basic_text import TEXT_SOP_CLASS_UID, build_text_report
from adapters.dicom.sr.document import SR_CLASS_UIDS, ReportSettings, build_document, encode_document, translated_errors
from adapters.dicom.sr.evidence import evidence_of
from adapters.dicom.sr.report_template import ReportTemplate
from adapters.dicom.sr.tid1500 import build_observer_context
from adapters.dicom.sr.uids import report_uid, series_uid, tracking_uid, visible_series_uid, visible_uid
from adapters.dicom.visible.card import draw_card, shrink_film
from adapters.dicom.visible.secondary_capture import CAPTURE_SOP_CLASS_UID, build_capture
from adapters.ipc.decoded_image import HostTransform
from pipeline.domain import Decision, Image, ModelVersion, Report, ReportState, StoredInstance, VisibleKind, VisibleObject
from pipeline.errors import PixelsUnreadable, ReportImpossible
from pipeline.ports.images import ImageReader
from pipeline.ports.services import ImageStore, ReportContent
from pipeline.statements import FindingStatement

TEMPLATE_CACHE_SIZE = 4
"""Number of versions whose templates are cached: one serves, reports of another may be pending."""
VISIBLE_CLASS_UIDS = {VisibleKind.TEXT: TEXT_SOP_CLASS_UID, VisibleKind.CARD: CAPTURE_SOP_CLASS_UID}
"""Kind of a visible object -> SOP Class UID."""
SERIES_OFFSETS = {VisibleKind.TEXT: 1, VisibleKind.CARD: 2}
"""Kind of a visible object -> distance of its Series Number from that of the SR."""


class SrWriter:
    """`ports.services.ReportWriter` by highdicom. The part common to all reports of a version is cached as a `ReportTemplate`."""

    def __init__(self, settings: ReportSettings, store: ImageStore, pixels: ImageReader | None = None, *, scope: str = "") -> None:
        """`pixels`: decodes the film on the card; a report without a card needs none. `scope`: keeps the UIDs apart from those of
        the catalog's reports."""
        self._settings, self._store, self._pixels = settings, store, pixels
        self._scope = (scope,) if scope else ()
        self._templates: dict[int, ReportTemplate] = {}
        self._evidence: tuple[Sequence[StoredInstance], list[Dataset]] = ((), [])  # of the last report
        self._header: tuple[ReportContent | None, Dataset] = (None, Dataset())  # of the last report

    def pending_report(self, study_instance_uid: str, version: int, revision: int) -> Report:
        root = self._settings.uid_root
        return Report(
            sop_instance_uid=report_uid(root, study_instance_uid, version, revision, *self._scope),
            series_instance_uid=series_uid(root, study_instance_uid, version, *self._scope),
            study_instance_uid=study_instance_uid,
            version=version,
            revision=revision,
            state=ReportState.PENDING,
            sop_class_uid=SR_CLASS_UIDS[self._settings.sop_class],
        )

    def pending_visible(self, content: ReportContent) -> list[VisibleObject]:
        wanted = (kind for kind in VisibleKind if kind in self._settings.visible)
        return [self._make_pending(content.report, kind) for kind in wanted]

    def _make_pending(self, report: Report, kind: VisibleKind) -> VisibleObject:
        root, study = self._settings.uid_root, report.study_instance_uid
        return VisibleObject(
            sop_instance_uid=visible_uid(root, study, report.version, report.revision, kind, *self._scope),
            series_instance_uid=visible_series_uid(root, study, report.version, kind, *self._scope),
            report=report.sop_instance_uid,
            kind=kind,
            state=ReportState.PENDING,
            sop_class_uid=VISIBLE_CLASS_UIDS[kind],
        )

    def write(self, content: ReportContent) -> bytes:
        return self._build_safely(content, self._build_report)

    def write_visible(self, content: ReportContent, visible: VisibleObject, predecessor: VisibleObject | None) -> bytes:
        return self._build_safely(content, partial(self._build_visible, visible, predecessor))

    def _build_safely(self, content: ReportContent, build: Callable[[ReportContent, Sequence[Dataset]], bytes]) -> bytes:
        """Return what `build` makes of the content and of the headers of its images, with errors translated."""
        uid = content.study.study_instance_uid
        if not content.evidence or not content.predictions:
            raise ReportImpossible(f"study {uid} has no scored image to report on")
        evidence = self._read_evidence(content)
        with translated_errors(uid):
            return build(content, evidence)

    def _read_evidence(self, content: ReportContent) -> list[Dataset]:
        """Return the normalised headers of the scored images; the objects of one report share them."""
        if self._evidence[0] is not content.evidence:
            self._evidence = content.evidence, [evidence_of(self._store.read(instance.file)) for instance in content.evidence]
        return self._evidence[1]

    def _build_report(self, content: ReportContent, evidence: Sequence[Dataset]) -> bytes:
        template = self._get_template(content)
        header = self._build_header(content, evidence, template)
        tracking = partial(tracking_uid, self._settings.uid_root, content.study.study_instance_uid)
        tree = template.fill(evidence, reported_findings(content, self._settings), content.statement, tracking)
        return encode_document(header, tree)

    def _build_visible(
        self,
        visible: VisibleObject,
        predecessor: VisibleObject | None,
        content: ReportContent,
        evidence: Sequence[Dataset],
    ) -> bytes:
        number = self._settings.series_number + SERIES_OFFSETS[visible.kind]
        if visible.kind is VisibleKind.CARD:
            return self._build_card(content, visible, evidence, number)
        template = self._get_template(content)
        header = self._build_header(content, evidence, template)
        return build_text_report(content, visible, predecessor, header, template.context, series_number=number)

    def _build_card(self, content: ReportContent, visible: VisibleObject, evidence: Sequence[Dataset], series_number: int) -> bytes:
        card = draw_card(content.statement, self._read_thumbnail(content), made_at=datetime.now(UTC).astimezone())
        settings = self._settings
        return build_capture(content, visible, evidence, card, shows="card", series_number=series_number, settings=settings)

    def _read_thumbnail(self, content: ReportContent) -> Image | None:
        """Return the first scored film, small; None where it cannot be decoded, which holds back no report."""
        if self._pixels is None:
            return None
        (film,) = self._pixels.read_ahead(content.evidence[:1], HostTransform(shrink_film))
        return None if isinstance(film, PixelsUnreadable) else film

    def _build_header(self, content: ReportContent, evidence: Sequence[Dataset], template: ReportTemplate) -> Dataset:
        """Return the header of the SR; the visible objects of the same report share it."""
        if self._header[0] is not content:
            self._header = content, build_document(content, evidence, template.root, self._settings)
        return self._header[1]

    def _get_template(self, content: ReportContent) -> ReportTemplate:
        """Return the version's template; a version changed in the catalog, or other words, get a new one."""
        version, words = content.version, (content.statement.title, content.statement.language)
        template = self._templates.get(version.number)
        if template is None or (template.version, template.words) != (version, words):
            if len(self._templates) >= TEMPLATE_CACHE_SIZE:
                self._templates.clear()
            template = ReportTemplate(version, self._build_observer(version), title=words[0], language=words[1])
            self._templates[version.number] = template
        return template

    def _build_observer(self, version: ModelVersion) -> ObserverContext:
        settings = self._settings
        return build_observer_context(version, manufacturer=settings.manufacturer, institution_name=settings.institution_name)


def reported_findings(content: ReportContent, settings: ReportSettings) -> list[FindingStatement]:
    """Return the findings with a measurement group: those assessed; all of them where the settings exclude every one."""
    assessed = [told for told in content.statement.findings if told.decision is not Decision.NOT_ASSESSED]
    reported = [told for told in assessed if settings.include_absent or told.decision is not Decision.ABSENT]
    return reported or assessed
