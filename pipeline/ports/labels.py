"""Ports of the slow loop: requests of the worklist and labels of the readers. Parts of `services.Transaction`."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from pipeline.domain import Label, ReaderDocument, Request, StoredFile


class Requests(Protocol):
    """Requests of the worklist. Append-only."""

    def lock(self) -> None:
        """Lock the requests: no other transaction appends before this one ends."""

    def append(self, requests: Sequence[Request]) -> None:
        """Insert requests in this order. ValueError where a study is not in the catalog."""

    def all(self) -> list[Request]:
        """Return every request, oldest first."""

    def of_studies(self, study_instance_uids: Collection[str]) -> dict[str, Request]:
        """Return StudyInstanceUID -> its request, of those of these studies that have one."""


class SecondReadings(Protocol):
    """Requests for a second reading of studies with a doubtful label, apart from the requests for first readings."""

    def append(self, requests: Sequence[Request]) -> None:
        """Insert requests in this order. ValueError where a study is not in the catalog."""

    def all(self) -> list[Request]:
        """Return every request, oldest first; all with the reason `rules.SECOND_READING` and the probability 1."""


class ReaderDocuments(Protocol):
    """Documents of the desk's readers, on their way to the archive."""

    def find(self, sop_instance_uid: str) -> ReaderDocument | None:
        """Return the document, or None."""

    def mark_built(self, sop_instance_uid: str, file: StoredFile) -> None:
        """Set BUILT, with the file."""

    def mark_sent(self, sop_instance_uid: str, status: str) -> None:
        """Set SENT, with the archive's answer."""

    def mark_refused(self, sop_instance_uid: str, status: str) -> None:
        """Set REFUSED, with the archive's answer."""


class Labels(Protocol):
    """Labels of readers. Append-only: the database itself refuses updates and deletes."""

    def append(self, labels: Sequence[Label]) -> None:
        """Insert labels in this order, with new ids. ValueError where a study is not in the catalog."""

    def all(self) -> list[Label]:
        """Return every label, in order of id."""

    def count_newer(self, label_id: int) -> int:
        """Return the number of labels with a higher id."""

    def of_studies(self, study_instance_uids: Collection[str]) -> list[Label]:
        """Return every label of these studies, in order of id."""

    def multi_reader_studies(self) -> list[str]:
        """Return the StudyInstanceUIDs, in order, of the studies with labels of more than one reader on the same finding."""

    def find(self, ids: Collection[int]) -> list[Label]:
        """Return the labels with these ids, in order of id."""
