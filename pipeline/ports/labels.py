"""What the slow loop needs of the catalog: what was asked of the readers, and what they said. Part of `ports`."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from pipeline.domain import Label, Request


class Requests(Protocol):
    """What the worklist asked for. Append-only, as labels are."""

    def lock(self) -> None:
        """Let no other transaction ask before this one ends."""

    def append(self, requests: Sequence[Request]) -> None:
        """Insert requests in this order. ValueError where a study is not in the catalog."""

    def all(self) -> list[Request]:
        """Return every request, oldest first."""

    def of_studies(self, study_instance_uids: Collection[str]) -> dict[str, Request]:
        """Return StudyInstanceUID -> its request, of those of these studies that were asked for."""


class Labels(Protocol):
    """Statements of readers. Append-only: the database itself refuses to change or delete one."""

    def append(self, labels: Sequence[Label]) -> None:
        """Insert statements in this order, whatever their `id`. ValueError where a study is not in the catalog."""

    def all(self) -> list[Label]:
        """Return every statement, in order of id."""

    def of_studies(self, study_instance_uids: Collection[str]) -> list[Label]:
        """Return every statement on these studies, in order of id."""

    def multi_reader_studies(self) -> list[str]:
        """Return the StudyInstanceUIDs, in order, of the studies of which more than one reader has spoken on one finding."""

    def find(self, ids: Collection[int]) -> list[Label]:
        """Return the statements with these ids, in order of id."""
