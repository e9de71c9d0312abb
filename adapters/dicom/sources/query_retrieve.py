"""A backfill source over query/retrieve: C-FIND, then C-GET, or C-MOVE to this daemon's own listener (PS3.4 C.4)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from typing import Any, cast

from pydicom.dataset import Dataset
from pynetdicom import build_context, build_role, evt
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE

from adapters.dicom.network.archive import STEPS_OF_A_REQUEST, ArchiveSettings, DicomArchive
from adapters.dicom.network.dimse import (
    CANNOT_UNDERSTAND,
    MOVE_DESTINATION_UNKNOWN,
    OUT_OF_RESOURCES,
    PENDING_STATUSES,
    STUDY_ROOT_FIND,
    STUDY_ROOT_GET,
    STUDY_ROOT_MOVE,
    SUB_OPERATIONS_FAILED,
    SUCCESS,
    UNABLE_TO_PROCESS_STATUSES,
)
from adapters.dicom.network.storage_classes import requested_contexts
from adapters.dicom.network.tls import TlsEndpoint
from adapters.dicom.sources import incoming
from pipeline.domain import Sender
from pipeline.errors import ArchiveBusy, ArchiveUnreachable, ConfigurationError, DataSetUnreadable, RefusedByArchive
from pipeline.ports.backfill import BackfillObject, BackfillUnit, DateRange, FindStored, ReceivedInstance, StoreObject

TIMEOUTS_OF_A_QUERY = 20
"""Limit of an association with C-FIND, in units of `timeout_seconds`: an archive that answers without end holds nobody longer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrieveSettings:
    """Modalities, and the method: C-MOVE to `move_destination`, the AE title of this listener; C-GET where that is empty."""

    modalities: Sequence[str]
    move_destination: str = ""


class RetrieveSource(DicomArchive):
    """`ports.backfill.BackfillSource` over DIMSE."""

    supports_dates = True

    def __init__(self, archive: ArchiveSettings, settings: RetrieveSettings, tls: TlsEndpoint | None = None) -> None:
        super().__init__(archive, tls)
        self._retrieval = settings
        self.sender = Sender(archive.ae_title, archive.host[:64], archive.calling_ae_title)

    @property
    def name(self) -> str:
        to = self._settings
        return f"query-retrieve {to.ae_title}@{to.host}:{to.port} {','.join(sorted(self._retrieval.modalities))}"[:255]

    def list_units(self, days: DateRange | None) -> list[BackfillUnit]:
        with self._open_query_association() as association:
            units = [unit for modality in self._retrieval.modalities for unit in self._query_studies(association, days, modality)]
        return list({unit.key: unit for unit in units}.values())

    def _query_studies(self, association: Association, days: DateRange | None, modality: str) -> Iterator[BackfillUnit]:
        """Yield the studies of the modality; where the archive has too many matches, query each half of the days."""
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
            if uid and _has_any_modality(row, self._retrieval.modalities):
                yield BackfillUnit(key=uid, study_instance_uid=uid, change_tag="" if count is None else str(count))

    def fetch(self, unit: BackfillUnit, find_stored: FindStored, store_object: StoreObject) -> int:
        with self._open_query_association() as association:
            series = {
                uid: self._query_instances(association, unit.study_instance_uid, uid)
                for uid in self._query_series(association, unit.study_instance_uid)
            }
        stored = find_stored([instance for instances in series.values() for instance in instances])
        missing = {uid: [instance for instance in instances if instance not in stored] for uid, instances in series.items()}
        queries = [
            _build_instances_query(unit.study_instance_uid, uid, instances, whole=len(instances) == len(series[uid]))
            for uid, instances in missing.items()
            if instances
        ]
        expected = {instance for instances in missing.values() for instance in instances}
        if not expected:
            return 0
        if self._retrieval.move_destination:
            return self._retrieve_by_move(queries, expected, find_stored)
        self._retrieve_by_get(queries, expected, store_object)
        return 0

    def _open_query_association(self) -> AbstractContextManager[Association]:
        limit = TIMEOUTS_OF_A_QUERY * self._settings.timeout_seconds
        return self._open_association([build_context(STUDY_ROOT_FIND)], limit_seconds=limit)

    def _compute_retrieval_limit(self, instances: int) -> float:
        """Return the limit of a retrieval in seconds: each instance may take as long as any other answer."""
        return (STEPS_OF_A_REQUEST + instances) * self._settings.timeout_seconds

    def _query_series(self, association: Association, study: str) -> list[str]:
        rows = self._send_find(association, _build_query("SERIES", StudyInstanceUID=study, SeriesInstanceUID="", Modality=""))
        wanted = [row for row in rows if row.get("Modality") in self._retrieval.modalities]
        return [uid for row in wanted if (uid := str(row.get("SeriesInstanceUID", "")))]

    def _query_instances(self, association: Association, study: str, series: str) -> list[str]:
        query = _build_query("IMAGE", StudyInstanceUID=study, SeriesInstanceUID=series, SOPInstanceUID="")
        return [uid for row in self._send_find(association, query) if (uid := str(row.get("SOPInstanceUID", "")))]

    def _send_find(self, association: Association, query: Dataset) -> list[Dataset]:
        found: list[Dataset] = []
        for status, identifier in association.send_c_find(query, STUDY_ROOT_FIND):
            code = self._get_status(status, "C-FIND")
            if code in PENDING_STATUSES and identifier is not None:
                found.append(identifier)
            elif code != SUCCESS:
                raise ArchiveBusy(f"{self._describe_archive()} answers C-FIND with 0x{code:04X}", hint="see the archive's own log")
        return found

    def _retrieve_by_get(self, queries: Sequence[Dataset], expected: set[str], store_object: StoreObject) -> None:
        contexts = requested_contexts()
        roles = [build_role(uid, scp_role=True) for uid in {context.abstract_syntax for context in contexts} if uid]
        store_handler = _StoreSubOperationHandler(store_object)
        handlers = [(evt.EVT_C_STORE, store_handler.on_store)]
        offered = [build_context(STUDY_ROOT_GET), *contexts]
        limit = self._compute_retrieval_limit(len(expected))
        with self._open_association(offered, limit_seconds=limit, ext_neg=roles, evt_handlers=handlers) as association:
            for query in queries:
                for status, _ in association.send_c_get(query, STUDY_ROOT_GET):
                    if store_handler.error is not None:
                        association.abort()  # the archive would send the rest
                        raise store_handler.error
                    self._check_retrieve_status(self._get_status(status, "C-GET"), "C-GET")
        self._raise_if_missing(expected - store_handler.received, len(expected))

    def _retrieve_by_move(self, queries: Sequence[Dataset], expected: set[str], find_stored: FindStored) -> int:
        """Return the number of instances that came through the listener: it has responded to each before C-MOVE ends."""
        limit = self._compute_retrieval_limit(len(expected))
        with self._open_association([build_context(STUDY_ROOT_MOVE)], limit_seconds=limit) as association:
            for query in queries:
                for status, _ in association.send_c_move(query, self._retrieval.move_destination, STUDY_ROOT_MOVE):
                    self._check_retrieve_status(self._get_status(status, "C-MOVE"), "C-MOVE")
        stored = find_stored(sorted(expected))
        self._raise_if_missing(expected - stored, len(expected))
        return len(stored)

    def _get_status(self, status: Dataset, service: str) -> int:
        if "Status" not in status:
            raise ArchiveUnreachable(f"{self._describe_archive()} gave no answer to {service}", hint=self._suggest_remedy())
        return int(status.Status)

    def _check_retrieve_status(self, code: int, service: str) -> None:
        if code == MOVE_DESTINATION_UNKNOWN:
            raise ConfigurationError(
                f"{self._describe_archive()} does not know {self._retrieval.move_destination} as a destination of C-MOVE",
                hint="make our listener known there by that AE title, with its host and port",
            )
        if code in UNABLE_TO_PROCESS_STATUSES:
            raise RefusedByArchive(
                f"{self._describe_archive()} answers {service} with 0x{code:04X}", hint="see the archive's own log"
            )
        if code not in (SUCCESS, SUB_OPERATIONS_FAILED, *PENDING_STATUSES):
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
    """The C-STORE SCP within a C-GET. The first error is recorded, and every later sub-operation is refused."""

    def __init__(self, store_object: StoreObject) -> None:
        self._store_object = store_object
        self.received: set[str] = set()
        self.error: Exception | None = None

    def on_store(self, event: evt.Event) -> int:
        """Return the status of one C-STORE sub-operation (PS3.4 B.2.3)."""
        if self.error is not None:
            return OUT_OF_RESOURCES
        request = cast(C_STORE, event.request)
        uid = str(request.AffectedSOPInstanceUID)
        encoded = cast(BytesIO, request.DataSet).getvalue()
        try:
            read = partial(_read_instance, uid, encoded, str(event.context.transfer_syntax))
            receipt = self._store_object(BackfillObject(uid, uid, read))
        except Exception as error:  # pynetdicom would discard it
            self.error = error
            return OUT_OF_RESOURCES
        self.received.add(uid)
        return CANNOT_UNDERSTAND if receipt is None else SUCCESS


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


def _build_instances_query(study: str, series: str, instances: Sequence[str], *, whole: bool) -> Dataset:
    """Return the query of a complete series, or of these instances of it (list of UID matching: PS3.4 C.2.2.2.2)."""
    if whole:
        return _build_query("SERIES", StudyInstanceUID=study, SeriesInstanceUID=series)
    return _build_query("IMAGE", StudyInstanceUID=study, SeriesInstanceUID=series, SOPInstanceUID=list(instances))


def _has_any_modality(row: Dataset, modalities: Sequence[str]) -> bool:
    """Tell whether a study has one of the modalities; True where the archive returns none, which PS3.4 table C.6-5 allows."""
    value = row.get("ModalitiesInStudy")
    found = {value} if isinstance(value, str) else set(value or ())
    return not found or bool(found & set(modalities))
