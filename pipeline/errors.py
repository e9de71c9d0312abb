"""The error tree. Each error names the fault, the place and the remedy; adapters translate third-party exceptions into it.

RadclipdError
├── PermanentError              another attempt would fail in the same way
│   ├── DataSetUnreadable       not a readable DICOM data set                   C-STORE 0xC000
│   ├── DataSetMismatch         data set contradicts its SOP class or UIDs      C-STORE 0xA900
│   ├── DifferentInstance       another instance under a known SOP Instance UID C-STORE 0xC001
│   ├── PixelsUnreadable        pixel data without a decodable image
│   ├── ReportImpossible        catalog rows from which no SR can be built
│   ├── InvalidLabels           faulty rows in a table of labels; names every row
│   └── RefusedByArchive        the archive refuses this object
├── TransientError              a later attempt may succeed
│   ├── OutOfResources          disk full or away, catalog unreachable          C-STORE 0xA700
│   │   └── CatalogFault        the catalog refuses a statement                 C-STORE 0xA700
│   ├── ArchiveBusy             the archive cannot store this object now
│   ├── ReportingStopped        a person has stopped reporting
│   ├── ArchiveUnreachable      the archive is unreachable; no fault of the object
│   ├── AuditRepositoryUnreachable  the collector of audit messages is unreachable
│   ├── StopRequested           the process must stop; the work restarts later
│   └── LeaseLost               another worker holds the job
└── FatalError                  the process must stop with the reason
    ├── ConfigurationError      file, key, nearest key
    ├── NoWeights               no model version serves, or its files are missing
    ├── WeightsRejected         weights that cannot be served
    │   ├── WeightsCorrupt      bytes that differ from their card
    │   └── WeightsIncompatible intact bytes of another architecture or release
    └── SchemaMismatch          the catalog's schema is of another release
"""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from dataclasses import dataclass


def traceback_locations(error: BaseException) -> list[str]:
    """Return the frames of an exception, innermost last, without its message: a foreign message may quote a data set."""
    return [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(error.__traceback__)]


class RadclipdError(Exception):
    """An error with its remedy. `str(error)` is one line; `hint` is the remedy, or ""."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class PermanentError(RadclipdError):
    """A permanent error: another attempt would fail in the same way."""


class DataSetUnreadable(PermanentError):
    """The bytes are not a readable DICOM data set."""


class DataSetMismatch(PermanentError):
    """The data set contradicts its SOP class, or the request that carried it."""


class DifferentInstance(PermanentError):
    """A different image or document is stored under the same SOP Instance UID."""


class PixelsUnreadable(PermanentError):
    """No image can be decoded from this instance's pixel data."""


class ReportImpossible(PermanentError):
    """No SR can be built from the catalog's rows."""


@dataclass(frozen=True, slots=True)
class LabelFault:
    """One fault in a table of labels."""

    row: int  # counted as a spreadsheet does: the header is row 1
    column: str
    value: str
    remedy: str


class InvalidLabels(PermanentError):
    """Labels with faults; nothing of the import was stored. `label_faults` names every fault, in order of rows."""

    def __init__(self, message: str, faults: Sequence[LabelFault], *, hint: str = "") -> None:
        super().__init__(message, hint=hint or (faults[0].remedy if faults else ""))
        self.label_faults = tuple(faults)


class JobOverrun(PermanentError):
    """The job ran longer than the bound of its kind, so its worker was ended. Another attempt would run as long."""


class RefusedByArchive(PermanentError):
    """The archive refuses this object, and would refuse it again."""


class TransientError(RadclipdError):
    """A transient error: a later attempt may succeed."""


class OutOfResources(TransientError):
    """No disk space or no catalog, so nothing can be stored durably."""


class CatalogFault(OutOfResources):
    """The catalog refuses a statement. Another attempt may succeed, once a person has repaired it."""


class ArchiveBusy(TransientError):
    """The archive answered, but cannot store this object now."""


class ArchiveUnreachable(TransientError):
    """The archive is unreachable. Counts against the archive's circuit, never against the job."""


class AuditRepositoryUnreachable(TransientError):
    """The hospital's collector of audit messages is unreachable. The events wait in the audit table."""


class ReportingStopped(TransientError):
    """A person has stopped reporting. Counts never against the job, which waits."""


class StopRequested(TransientError):
    """The process must stop. Nothing was written: the work restarts with the next process."""


class BatchOverrun(TransientError):
    """A batch with this job ran longer than the bound of its kind, so its worker was ended. Any job of it may be the cause."""


class LeaseLost(TransientError):
    """The lease expired and another worker may hold the job. Nothing was written."""


class FatalError(RadclipdError):
    """A fatal error: the process must stop with the reason."""


class ConfigurationError(FatalError):
    """An invalid configuration file."""


class NoWeights(FatalError):
    """No model version serves, or its files are missing."""


class WeightsRejected(FatalError):
    """Weights that cannot be served."""


class WeightsCorrupt(WeightsRejected):
    """The bytes differ from the card: a damaged disk, a truncated copy, or tampering."""


class WeightsIncompatible(WeightsRejected):
    """The bytes are intact but unusable: another architecture, another release, or libraries with other results."""


class SchemaMismatch(FatalError):
    """The catalog's schema is older or newer than that of this release."""
