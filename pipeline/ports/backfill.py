"""What a backfill needs of the outside: where studies come from, and rows that remember what came. See `backfill`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Protocol

from pipeline.domain import Header, Receipt, Sender


@dataclass(frozen=True, slots=True)
class DateRange:
    """A range of dates, both ends in it."""

    first: date
    last: date

    def __iter__(self) -> Iterator[date]:
        return (self.first + timedelta(days=n) for n in range((self.last - self.first).days + 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class BackfillUnit:
    """What a source gives at a time: a study of an archive, or a few files of a folder.

    `key` tells it from the others of its source, in no more than 64 characters and without a word about the patient. `mark` is
    another one where its content is another one. `study`: its StudyInstanceUID, where one is known before anything is fetched.
    `places`: where its source finds it; not kept.
    """

    key: str
    change_tag: str = ""
    study_instance_uid: str = ""
    locations: tuple[str, ...] = ()


@dataclass(slots=True)
class BackfillCounts:
    """What became of what a source gave. Duplicates are instances that were here already, to the byte."""

    instances: int = 0
    duplicates: int = 0
    refused: int = 0
    others: int = 0  # files that are no instances, or none that is wanted
    bytes: int = 0  # of instances that were stored

    def add(self, other: BackfillCounts) -> None:
        """Add up."""
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


ReceivedInstance = tuple[Header, bytes]
"""What `receive` takes: the header and the DICOM file."""


@dataclass(frozen=True, slots=True)
class BackfillObject:
    """One object of a parcel, not looked at yet.

    `read` returns it; None where it is none, or none that is wanted; it raises what the listener would refuse it with. `uid`: its
    SOPInstanceUID, where that is known. `place` is for whoever runs the backfill and may name a patient: it is never kept.
    """

    location: str
    sop_instance_uid: str
    read: Callable[[], ReceivedInstance | None]


FindStored = Callable[[Collection[str]], set[str]]
"""Returns those of these SOPInstanceUIDs that are here, file and row: they need not be fetched."""
StoreObject = Callable[[BackfillObject], Receipt | None]
"""Takes a piece in for good; None where it was refused, or is none. TransientError passes through: fetch no more."""


class BackfillSource(Protocol):
    """Where studies come from."""

    @property
    def name(self) -> str:
        """What is asked, and for what: the same words for the same parcels. No secret, at most 255 characters."""

    @property
    def sender(self) -> Sender:
        """Who the instances are from."""

    @property
    def supports_dates(self) -> bool:
        """Whether `parcels` can be asked for some days."""

    def list_units(self, days: DateRange | None) -> Iterable[BackfillUnit]:
        """Return what there is of these days, or at all where it is not dated. TransientError, PermanentError."""

    def fetch(self, unit: BackfillUnit, find_stored: FindStored, store_object: StoreObject) -> int:
        """Give the pieces of a parcel that are not known, one by one. TransientError; PermanentError where it can never be had.

        Returns how many came another way than this: sent to the listener, at our request.
        """


class Backfills(Protocol):
    """What backfills have done, by source: a part of `ports.Transaction`."""

    def finished_days(self, source: str) -> set[date]:
        """Return the days of which everything was taken in."""

    def add_finished_days(self, source: str, days: Collection[date]) -> None:
        """Remember that of these days there is no more to come."""

    def finished_units(self, source: str, keys: Collection[str], *, failed: bool) -> dict[str, str]:
        """Return key -> mark of those of these parcels that were taken in; with `failed`, of those that never can be, too."""

    def finish_unit(
        self, source: str, unit: BackfillUnit, counts: BackfillCounts, studies: Collection[str], *, error: str = ""
    ) -> None:
        """Remember that a parcel was taken in, with what studies, or why it cannot be. The last word holds."""

    def mark_backfilled(self, source: str, study_instance_uids: Collection[str]) -> None:
        """Mark those of these studies that the catalog does not know yet: it is a backfill that brings them."""

    def backfilled_studies(self, study_instance_uids: Collection[str]) -> set[str]:
        """Return those of these studies that a backfill brought, and of which nothing has come any other way since."""
