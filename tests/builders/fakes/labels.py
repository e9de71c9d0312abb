"""Fakes of ports.Labels and ports.Requests."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from pipeline.domain import (
    Label,
    ReaderDocument,
    ReportState,
    Request,
    StoredFile,
)
from tests.builders.fakes.rows import CatalogTables


class FakeLabels:
    def __init__(self, tables: CatalogTables) -> None:
        self._t = tables

    def append(self, labels: Sequence[Label]) -> None:
        if any(label.study_instance_uid not in self._t.studies for label in labels):
            raise ValueError("a study is not in the catalog")
        for label in labels:
            numbered = replace(label, id=len(self._t.labels) + 1)
            self._raise_if_refused(numbered)
            self._t.labels.append(numbered)

    def _raise_if_refused(self, label: Label) -> None:
        revoked = next((known for known in self._t.labels if known.id == label.revokes), None)
        if label.state is None and label.revokes is None:
            raise ValueError("constraint: says_something")
        if label.revokes is not None and (revoked is None or (revoked.study_instance_uid, revoked.finding) != self._key_of(label)):
            raise ValueError("constraint: revokes a label of another study or finding")
        if label.revokes is not None and any(known.revokes == label.revokes for known in self._t.labels):
            raise ValueError("unique: revoked once")
        same = (*self._key_of(label), label.reader, label.document)
        known = [(*self._key_of(k), k.reader, k.document) for k in self._t.labels if k.document and k.state is not None]
        if label.state is not None and same in known:
            raise ValueError("unique: one statement of a reader on a finding in a document")

    @staticmethod
    def _key_of(label: Label) -> tuple[str, str]:
        return label.study_instance_uid, label.finding

    def all(self) -> list[Label]:
        return list(self._t.labels)

    def count_newer(self, label_id: int) -> int:
        return sum(label.id > label_id for label in self._t.labels)

    def of_studies(self, study_instance_uids: Collection[str]) -> list[Label]:
        return [label for label in self._t.labels if label.study_instance_uid in study_instance_uids]

    def multi_reader_studies(self) -> list[str]:
        readers: dict[tuple[str, str], set[str]] = {}
        for label in self._t.labels:
            readers.setdefault((label.study_instance_uid, label.finding), set()).add(label.reader)
        return sorted({study for (study, _), several in readers.items() if len(several) > 1})

    def find(self, ids: Collection[int]) -> list[Label]:
        return [label for label in self._t.labels if label.id in ids]


class FakeRequests:
    def __init__(self, tables: CatalogTables) -> None:
        self._t = tables

    def lock(self) -> None:
        """The transaction holds the catalog's lock already."""

    def append(self, requests: Sequence[Request]) -> None:
        for request in requests:
            if request.study_instance_uid not in self._t.studies:
                raise ValueError("a study is not in the catalog")
            if request.study_instance_uid in self._t.requests:
                raise ValueError("unique: a study is requested once")
            if not request.selection_reason or not 0 < request.selection_probability <= 1:
                raise ValueError("constraint: says_why, selection_probability")
            self._t.requests[request.study_instance_uid] = request

    def all(self) -> list[Request]:
        return list(self._t.requests.values())

    def of_studies(self, study_instance_uids: Collection[str]) -> dict[str, Request]:
        return {uid: request for uid, request in self._t.requests.items() if uid in study_instance_uids}


class FakeSecondReadings:
    def __init__(self, tables: CatalogTables) -> None:
        self._t = tables

    def append(self, requests: Sequence[Request]) -> None:
        for request in requests:
            if request.study_instance_uid not in self._t.studies:
                raise ValueError("a study is not in the catalog")
            if request.study_instance_uid in {known.study_instance_uid for known in self._t.second_readings}:
                raise ValueError("unique: a study is read again once")
            self._t.second_readings.append(request)

    def all(self) -> list[Request]:
        return list(self._t.second_readings)


class FakeReaderDocuments:
    def __init__(self, tables: CatalogTables) -> None:
        self._t = tables

    def find(self, sop_instance_uid: str) -> ReaderDocument | None:
        return self._t.reader_documents.get(sop_instance_uid)

    def mark_built(self, sop_instance_uid: str, file: StoredFile) -> None:
        self._put_state(sop_instance_uid, ReportState.BUILT, file)

    def mark_sent(self, sop_instance_uid: str, status: str) -> None:
        self._put_state(sop_instance_uid, ReportState.SENT)

    def mark_refused(self, sop_instance_uid: str, status: str) -> None:
        self._put_state(sop_instance_uid, ReportState.REFUSED)

    def _put_state(self, uid: str, state: ReportState, file: StoredFile | None = None) -> None:
        document = self._t.reader_documents[uid]
        self._t.reader_documents[uid] = replace(document, state=state, file=file or document.file)
