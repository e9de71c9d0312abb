"""sending: one object to the archive; its outcome and the archive's circuit are recorded in one transaction."""

from __future__ import annotations

from collections.abc import Callable

from pipeline.errors import ArchiveUnreachable, RefusedByArchive
from pipeline.ports.services import Archive, Catalog, CircuitPolicy, Transaction

RecordOutcome = Callable[[Transaction, str], None]
"""Gets the archive's answer: its status, or why it refuses."""


def send_object(
    content: bytes,
    *,
    catalog: Catalog,
    archive: Archive,
    circuit: CircuitPolicy,
    record_sent: RecordOutcome,
    record_refusal: RecordOutcome,
) -> None:
    """Store a DICOM file in the archive. ArchiveUnreachable, RefusedByArchive: recorded, too."""
    try:
        status = archive.store(content)
    except ArchiveUnreachable:
        with catalog.begin() as tx:
            tx.circuits.record_failure(archive.name, threshold=circuit.threshold, open_seconds=circuit.open_seconds)
        raise
    except RefusedByArchive as error:
        with catalog.begin() as tx:
            tx.circuits.record_success(archive.name)
            record_refusal(tx, str(error))
        raise
    with catalog.begin() as tx:
        tx.circuits.record_success(archive.name)
        record_sent(tx, status)
