"""An archive's query and retrieve as a backfill's source: C-FIND, then C-GET, or C-MOVE to our own listener (PS3.4 C.4)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from typing import Any, cast

from pydicom.dataset import Dataset
from pynetdicom import build_context, build_role, evt
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE

from adapters.dicom.network.archive import PENDING, STUDY_ROOT_FIND, SUCCESS, ArchiveSettings, DicomArchive
from adapters.dicom.network.storage_classes import requested_contexts
from adapters.dicom.sources import incoming
from pipeline.domain import Sender
from pipeline.errors import ArchiveBusy, ArchiveUnreachable, ConfigurationError, DataSetUnreadable, RefusedByArchive
from pipeline.ports.backfill import BackfillObject, BackfillUnit, DateRange, FindStored, ReceivedInstance, StoreObject

STUDY_ROOT_GET = "1.2.840.10008.5.1.4.1.2.2.3"  # PS3.4 C.6.2
STUDY_ROOT_MOVE = "1.2.840.10008.5.1.4.1.2.2.2"
# PS3.4 tables C.4-2 and C.4-3
DESTINATION_UNKNOWN = 0xA801
OUT_OF_RESOURCES, CANNOT_UNDERSTAND = 0xA700, 0xC000
SOME_FAILED = 0xB000
UNABLE_TO_PROCESS = range(0xC000, 0xD000)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrieveSettings:
    """Which films, and how they come: `move_to` is the AE title under which the archive knows our listener; empty: by C-GET."""

    modalities: Sequence[str]
    move_destination: str = ""


class RetrieveSource(DicomArchive):
    """backfill_ports.Source over DIMSE."""

    supports_dates = True

    def __init__(self, archive: ArchiveSettings, settings: RetrieveSettings) -> None:
        super().__init__(archive)
        self._wanted = settings
        self.sender = Sender(archive.ae_title, archive.host[:64], archive.calling_ae_title)

    @property
    def name(self) -> str:
        to = self._settings
        return f"query-retrieve {to.ae_title}@{to.host}:{to.port} {','.join(sorted(self._wanted.modalities))}"[:255]

    def list_units(self, days: DateRange | None) -> list[BackfillUnit]:
        with self._open_association([build_context(STUDY_ROOT_FIND)]) as association:
            found = [parcel for modality in self._wanted.modalities for parcel in self._query_studies(association, days, modality)]
        return list({parcel.key: parcel for parcel in found}.values())

    def _query_studies(self, association: Association, days: DateRange | None, modality: str) -> Iterator[BackfillUnit]:
        """An archive that has too much to tell is asked for half of the days."""
        query = _build_query("STUDY", StudyInstanceUID="", ModalitiesInStudy=modality, NumberOfStudyRelatedInstances="")
        query.StudyDate = f"{days.first:%Y%m%d}-{days.last:%Y%m%d}" if days else ""
        try:
            rows = self._send_find(association, query)
        except ArchiveBusy:
            if days is None or days.first == days.last:
                raise
            middle = days.first + (days.last - days.first) // 2
            after = next(day for day in days if day > middle)
            for half in (DateRange(days.first, middle), DateRange(after, days.last)):
                yield from self._query_studies(association, half, modality)
            return
        for row in rows:
            uid, count = str(row.get("StudyInstanceUID", "")), row.get("NumberOfStudyRelatedInstances")
            if uid and _has_any_modality(row, self._wanted.modalities):
                yield BackfillUnit(key=uid, study_instance_uid=uid, change_tag="" if count is None else str(count))

    def fetch(self, unit: BackfillUnit, find_stored: FindStored, store_object: StoreObject) -> int:
        with self._open_association([build_context(STUDY_ROOT_FIND)]) as association:
            series = {
                uid: self._query_instances(association, unit.study_instance_uid, uid)
                for uid in self._query_series(association, unit.study_instance_uid)
            }
        here = find_stored([uid for images in series.values() for uid in images])
        left = {uid: [image for image in images if image not in here] for uid, images in series.items()}
        queries = [
            _build_instances_query(unit.study_instance_uid, uid, images, whole=len(images) == len(series[uid]))
            for uid, images in left.items()
            if images
        ]
        expected = {image for images in left.values() for image in images}
        if not expected:
            return 0
        if self._wanted.move_destination:
            return self._retrieve_by_move(queries, expected, find_stored)
        self._retrieve_by_get(queries, expected, store_object)
        return 0

    def _query_series(self, association: Association, study: str) -> list[str]:
        rows = self._send_find(association, _build_query("SERIES", StudyInstanceUID=study, SeriesInstanceUID="", Modality=""))
        return [str(row.SeriesInstanceUID) for row in rows if row.get("Modality") in self._wanted.modalities]

    def _query_instances(self, association: Association, study: str, series: str) -> list[str]:
        query = _build_query("IMAGE", StudyInstanceUID=study, SeriesInstanceUID=series, SOPInstanceUID="")
        return [str(row.SOPInstanceUID) for row in self._send_find(association, query)]

    def _send_find(self, association: Association, query: Dataset) -> list[Dataset]:
        found: list[Dataset] = []
        for status, identifier in association.send_c_find(query, STUDY_ROOT_FIND):
            code = self._get_status(status, "C-FIND")
            if code in PENDING and identifier is not None:
                found.append(identifier)
            elif code != SUCCESS:
                raise ArchiveBusy(f"{self._describe_archive()} answers C-FIND with 0x{code:04X}", hint="see the archive's own log")
        return found

    def _retrieve_by_get(self, queries: Sequence[Dataset], expected: set[str], take: StoreObject) -> None:
        contexts = requested_contexts()
        roles = [build_role(uid, scp_role=True) for uid in {context.abstract_syntax for context in contexts} if uid]
        desk = _StoreSubOperationHandler(take)
        handlers = [(evt.EVT_C_STORE, desk.on_store)]
        offered = [build_context(STUDY_ROOT_GET), *contexts]
        with self._open_association(offered, ext_neg=roles, evt_handlers=handlers) as association:
            for query in queries:
                for status, _ in association.send_c_get(query, STUDY_ROOT_GET):
                    if desk.error is not None:
                        association.abort()  # the archive would go on to the end
                        raise desk.error
                    self._check_retrieve_status(self._get_status(status, "C-GET"), "C-GET")
        self._raise_if_missing(expected - desk.received, len(expected))

    def _retrieve_by_move(self, queries: Sequence[Dataset], expected: set[str], known: FindStored) -> int:
        """Our listener has answered for each instance when the archive says that it is through."""
        with self._open_association([build_context(STUDY_ROOT_MOVE)]) as association:
            for query in queries:
                for status, _ in association.send_c_move(query, self._wanted.move_destination, STUDY_ROOT_MOVE):
                    self._check_retrieve_status(self._get_status(status, "C-MOVE"), "C-MOVE")
        here = known(sorted(expected))
        self._raise_if_missing(expected - here, len(expected))
        return len(here)

    def _get_status(self, status: Dataset, service: str) -> int:
        if "Status" not in status:
            raise ArchiveUnreachable(f"{self._describe_archive()} gave no answer to {service}", hint=self._suggest_remedy())
        return int(status.Status)

    def _check_retrieve_status(self, code: int, service: str) -> None:
        if code == DESTINATION_UNKNOWN:
            raise ConfigurationError(
                f"{self._describe_archive()} does not know {self._wanted.move_destination} as a destination of C-MOVE",
                hint="make our listener known there by that AE title, with its host and port",
            )
        if code in UNABLE_TO_PROCESS:
            raise RefusedByArchive(
                f"{self._describe_archive()} answers {service} with 0x{code:04X}", hint="see the archive's own log"
            )
        if code not in (SUCCESS, SOME_FAILED, *PENDING):
            raise ArchiveBusy(f"{self._describe_archive()} answers {service} with 0x{code:04X}", hint="see the archive's own log")

    def _raise_if_missing(self, missing: set[str], expected: int) -> None:
        if missing:
            raise RefusedByArchive(
                f"{len(missing)} of {expected} instances did not come",
                hint="see the archive's own log and ours; --again tries again",
            )

    def _suggest_remedy(self) -> str:
        return "is it running, and AE@HOST:PORT right?"


class _StoreSubOperationHandler:
    """Takes in what an archive sends within a C-GET. An error ends it and is kept: nothing hears Success by mistake."""

    def __init__(self, take: StoreObject) -> None:
        self._take = take
        self.received: set[str] = set()
        self.error: Exception | None = None

    def on_store(self, event: evt.Event) -> int:
        """Answer one C-STORE sub-operation (PS3.4 B.2.3)."""
        if self.error is not None:
            return OUT_OF_RESOURCES
        request = cast(C_STORE, event.request)
        uid = str(request.AffectedSOPInstanceUID)
        encoded = cast(BytesIO, request.DataSet).getvalue()
        try:
            taken = self._take(BackfillObject(uid, uid, partial(_read_instance, uid, encoded, str(event.context.transfer_syntax))))
        except Exception as error:  # pynetdicom would swallow it
            self.error = error
            return OUT_OF_RESOURCES
        self.received.add(uid)
        return CANNOT_UNDERSTAND if taken is None else SUCCESS


def _read_instance(uid: str, encoded: bytes, transfer_syntax_uid: str) -> ReceivedInstance | None:
    found = incoming.from_encoded(encoded, transfer_syntax_uid, other_storage="refuse")
    if found is not None and found[0].sop_instance_uid != uid:
        raise DataSetUnreadable("the data set is not the one that the archive says it is", hint="see the archive's own log")
    return found


def _build_query(level: str, **keys: Any) -> Dataset:
    query = Dataset()
    query.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(query, keyword, value)
    return query


def _build_instances_query(study: str, series: str, images: Sequence[str], *, whole: bool) -> Dataset:
    """A series as a whole, or the images of it that are not here (a list of UIDs: PS3.4 C.2.2.2.2)."""
    if whole:
        return _build_query("SERIES", StudyInstanceUID=study, SeriesInstanceUID=series)
    return _build_query("IMAGE", StudyInstanceUID=study, SeriesInstanceUID=series, SOPInstanceUID=list(images))


def _has_any_modality(row: Dataset, modalities: Sequence[str]) -> bool:
    """An archive need not match by ModalitiesInStudy, nor return it (PS3.4 table C.6-5): then its series will tell."""
    value = row.get("ModalitiesInStudy")
    has = {value} if isinstance(value, str) else set(value or ())
    return not has or bool(has & set(modalities))
