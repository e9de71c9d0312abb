"""Ports of the erasure of a patient: what the catalog holds of one, and its end."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from pipeline.domain import StoredFile
from pipeline.ports.audit import AuditTransaction


@dataclass(frozen=True, slots=True)
class PatientRecord:
    """A patient of the catalog."""

    number: int  # of the row
    issuer_of_patient_id: str
    studies: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PatientHoldings:
    """What the catalog holds of one patient."""

    audit_pseudonym: str
    export_pseudonym: str
    rows: Mapping[str, int]  # table -> rows; without tables that hold none
    files: Sequence[StoredFile]  # no row of another patient names one of them
    sent_objects: int  # reports and visible objects that the archive has
    versions: Sequence[int]  # model versions that were learnt after the patient's first label
    backfilled: int  # studies that the list of a backfill names
    uids: Collection[str]  # of the studies and instances, and of the objects built here


@dataclass(frozen=True, slots=True)
class ExportRecord:
    """An export that was made of this catalog."""

    directory: str
    made_at: datetime


class Erasures(Protocol):
    """Erasure of patients."""

    def find_patients(self, patient_id: str) -> Sequence[PatientRecord]:
        """Return the patients of this Patient ID, one for each issuer."""

    def find_patient_of_study(self, study_instance_uid: str) -> PatientRecord | None:
        """Return the patient of a study, or None."""

    def begin(self, number: int) -> None:
        """Mark the patient: its labels and requests may be deleted. Idempotent."""

    def describe(self, number: int) -> PatientHoldings:
        """Return what the catalog holds of the patient."""

    def erase(self, number: int) -> None:
        """Delete every row of the patient and the key of its pseudonyms; blank its linked audit events."""

    def other_sha256s(self, number: int) -> Iterable[str]:
        """Return the SHA-256 of the stored instances of all other patients."""

    def add_export(self, directory: str) -> None:
        """Record an export."""

    def exports(self) -> Sequence[ExportRecord]:
        """Return the recorded exports."""


class ErasingTransaction(AuditTransaction, Protocol):
    """One unit of work with erasures."""

    @property
    def erasures(self) -> Erasures: ...


class ErasingCatalog(Protocol):
    """The catalog as an erasure sees it: an `audit.AuditCatalog` with more."""

    def begin(self) -> AbstractContextManager[ErasingTransaction]:
        """Open a transaction that may write."""

    def read(self) -> AbstractContextManager[ErasingTransaction]:
        """Open a transaction that only reads."""

    def purge_erased_pages(self) -> str:
        """Overwrite what deleted rows have left in the files of the database; return what still holds them, in words, or ""."""


class ActivationFiles(Protocol):
    """Cached activations."""

    def remove(self, sha256s: Collection[str]) -> int:
        """Remove the activations of files, by their SHA-256; return the number of records."""

    def retain(self, sha256s: Iterable[str]) -> int:
        """Remove everything but the activations of these files; return the number of records.

        Augmented copies go too: their names cannot be told from the file's. Learning makes them anew.
        """


class ExportFolders(Protocol):
    """Folders of earlier exports."""

    def remove_patient(self, directory: str, pseudonym: str) -> bool:
        """Remove a patient from an export; return False where the folder is not there."""
