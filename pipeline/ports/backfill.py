"""Ports of `pipeline.backfill`: the source of the studies, and the catalog's records of finished days and units."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Protocol

from pipeline.domain import Header, Receipt, Sender


@dataclass(frozen=True, slots=True)
class DateRange:
    """A range of dates, both ends included. Iterates over its days."""

    first: date
    last: date

    def __iter__(self) -> Iterator[date]:
        return (self.first + timedelta(days=n) for n in range((self.last - self.first).days + 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class BackfillUnit:
    """The unit of a backfill: a study of an archive, or a few files of a folder."""

    key: str  # identity within its source, at most 64 characters; says nothing about the patient
    change_tag: str = ""  # differs where the content differs
    study_instance_uid: str = ""  # "": not known before the fetch
    locations: tuple[str, ...] = ()  # addresses for the source's own use, not stored


@dataclass(slots=True)
class BackfillCounts:
    """Counts of the objects of a unit or a run."""

    instances: int = 0  # stored
    duplicates: int = 0  # stored before, byte for byte
    refused: int = 0
    others: int = 0  # files that are not DICOM instances, or not wanted
    bytes: int = 0  # of stored instances

    def add(self, other: BackfillCounts) -> None:
        """Add the counts of `other` in place."""
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


ReceivedInstance = tuple[Header, bytes]
"""Header and bytes of a DICOM file, as `receive` takes them."""


@dataclass(frozen=True, slots=True)
class BackfillObject:
    """One object of a unit, not read yet."""

    location: str  # for the user's terminal; may name a patient, so it is never stored
    sop_instance_uid: str  # "": not known
    read: Callable[[], ReceivedInstance | None]  # None: not a wanted instance; raises the listener's refusal as PermanentError


FindStored = Callable[[Collection[str]], set[str]]
"""Returns those of these SOPInstanceUIDs with a row and a file in place, which need not be fetched."""
StoreObject = Callable[[BackfillObject], Receipt | None]
"""Stores an object; None where it was refused or is not wanted. TransientError passes through and ends the fetch."""


class BackfillSource(Protocol):
    """A source of studies: a folder, or an archive by DICOMweb or query/retrieve."""

    @property
    def name(self) -> str:
        """The source and the query, identical for identical units. Without secrets, at most 255 characters."""

    @property
    def sender(self) -> Sender:
        """The origin of the instances."""

    @property
    def supports_dates(self) -> bool:
        """Whether `list_units` can select by days."""

    def list_units(self, days: DateRange | None) -> Iterable[BackfillUnit]:
        """Return the units of these days; None, or without `supports_dates`: all units. TransientError, PermanentError."""

    def fetch(self, unit: BackfillUnit, find_stored: FindStored, store_object: StoreObject) -> int:
        """Pass each missing object of a unit to `store_object`. TransientError; PermanentError where the unit cannot be fetched.

        Returns the number of instances that the source has sent to the listener instead (C-MOVE).
        """


class Backfills(Protocol):
    """Records of backfills, by source: a part of `services.Transaction`."""

    def finished_days(self, source: str) -> set[date]:
        """Return the finished days."""

    def add_finished_days(self, source: str, days: Collection[date]) -> None:
        """Record days as finished: nothing of them is left to import."""

    def finished_units(self, source: str, keys: Collection[str], *, failed: bool) -> dict[str, str]:
        """Return key -> change tag of those of these units that were imported; with `failed`, also of those that failed."""

    def finish_unit(
        self, source: str, unit: BackfillUnit, counts: BackfillCounts, studies: Collection[str], *, error: str = ""
    ) -> None:
        """Record the result of a unit: its counts and studies, or the `error` of a failed unit. Replaces an earlier result."""

    def mark_backfilled(self, source: str, study_instance_uids: Collection[str]) -> None:
        """Mark as backfilled those of these studies that are not in the catalog yet."""

    def backfilled_studies(self, study_instance_uids: Collection[str]) -> set[str]:
        """Return those of these studies that are marked as backfilled and have received no instance by another route since."""
