"""The one error tree. Each error says what, where, and the remedy; adapters translate third-party exceptions into it.

RadclipdError
├── Refused                 for good: the same thing again would fail again
│   ├── DataSetUnreadable       bytes that are no DICOM data set              C-STORE 0xC000
│   ├── DataSetMismatch        data set and SOP class / UIDs disagree        C-STORE 0xA900
│   ├── DifferentInstance   another file under a known SOP Instance UID   C-STORE 0xC001
│   ├── PixelsUnreadable    no image can be made of the pixel data
│   ├── ReportImpossible    no SR can be built of what is there
│   ├── InvalidLabels           rows of labels that cannot be taken; names every one
│   └── RefusedByArchive    the archive refuses this object
├── TransientError                passing: later may be better
│   ├── OutOfResources      disk below the guard, catalog unreachable     C-STORE 0xA700
│   ├── ArchiveBusy         the archive cannot take this object now
│   ├── ArchiveUnreachable  the archive as a whole cannot be reached; says nothing about the object
│   ├── Interrupted         the process was told to stop; the work begins again elsewhere
│   └── LeaseLost           another worker holds the job now
└── FatalError             the process must stop and say why
    ├── ConfigurationError  file, key, nearest key
    ├── NoWeights           no model version serves
    ├── WeightsRejected     weights that cannot be served
    │   ├── WeightsCorrupt      bytes that are not what their card says
    │   └── WeightsIncompatible sound bytes of another architecture, or of another release
    └── SchemaMismatch      the catalog's schema is not this release's
"""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from dataclasses import dataclass


def traceback_locations(error: BaseException) -> list[str]:
    """Return where an exception came by, innermost last, without its message: foreign ones may quote a data set."""
    return [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(error.__traceback__)]


class RadclipdError(Exception):
    """An error with its remedy. `str(error)` is one line; `hint` may be empty."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class PermanentError(RadclipdError):
    """For good: trying the same thing again would fail again."""


class DataSetUnreadable(PermanentError):
    """The bytes are not a DICOM data set that can be read."""


class DataSetMismatch(PermanentError):
    """The data set is not what its SOP class, or the request that carried it, says it is."""


class DifferentInstance(PermanentError):
    """A different file stands under the same SOP Instance UID."""


class PixelsUnreadable(PermanentError):
    """No image can be made of this instance's pixel data."""


class ReportImpossible(PermanentError):
    """No SR can be built of what is in the catalog."""


@dataclass(frozen=True, slots=True)
class LabelFault:
    """One thing wrong in a table of labels. `row` counts as a spreadsheet does: the header is row 1."""

    row: int
    column: str
    value: str
    remedy: str


class InvalidLabels(PermanentError):
    """Labels that cannot be taken, and of which nothing was. `faults` names every row in its place."""

    def __init__(self, message: str, faults: Sequence[LabelFault], *, hint: str = "") -> None:
        super().__init__(message, hint=hint or (faults[0].remedy if faults else ""))
        self.label_faults = tuple(faults)


class RefusedByArchive(PermanentError):
    """The archive refuses this object and would refuse it again."""


class TransientError(RadclipdError):
    """A passing trouble."""


class OutOfResources(TransientError):
    """No room, or no catalog, to keep a promise of durability."""


class ArchiveBusy(TransientError):
    """The archive answered, but cannot take this object now."""


class ArchiveUnreachable(TransientError):
    """The archive cannot be reached at all; counts against the archive, never against the job."""


class StopRequested(TransientError):
    """The process was told to stop, and nothing was written: the work begins again at its next start."""


class LeaseLost(TransientError):
    """The lease ran out and another worker may hold the job: nothing was written."""


class FatalError(RadclipdError):
    """The process must stop and say why."""


class ConfigurationError(FatalError):
    """A configuration file that cannot be used."""


class NoWeights(FatalError):
    """No model version serves, or its files are not there."""


class WeightsRejected(FatalError):
    """Weights that cannot be served."""


class WeightsCorrupt(WeightsRejected):
    """The bytes are not what the card says: a damaged disk, a copy cut short, a hand that should not have been there."""


class WeightsIncompatible(WeightsRejected):
    """The bytes are what they were, and do not fit: another architecture, another release, libraries that compute otherwise."""


class SchemaMismatch(FatalError):
    """The catalog's schema is older or newer than this release."""
