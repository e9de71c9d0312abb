"""Where the data set of one C-STORE flows to while it arrives: into a file, its header read on the way. Nothing of it is held."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO

from adapters.dicom.image import part10
from pipeline.domain import Header
from pipeline.errors import DataSetMismatch
from pipeline.ports.services import Buffer, IncomingFile

HEADER_PREFIX_BYTES = 1 << 15
"""The header is looked for in so many first bytes, once they have come; where it is longer, in the file, at the end."""


class ReceivedDataset(BytesIO):
    """What pynetdicom writes the fragments of a data set to: it asks for a BytesIO, and this one keeps nothing.

    The thread that reads the network goes on whatever happens: a fault is noted, what follows of the data set is dropped, and
    `finish` raises it.
    """

    def __init__(
        self, begin_file: Callable[[], IncomingFile], *, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str
    ) -> None:
        """Begin a file for the instance that the C-STORE request names."""
        super().__init__()
        self._wanted = {"SOPClassUID": sop_class_uid, "SOPInstanceUID": sop_instance_uid}
        self._syntax = transfer_syntax_uid
        self._beginning: bytearray | None = bytearray()  # None once it has been looked at
        self._header: Header | None = None
        self._arriving: IncomingFile | None = None
        self._fault: Exception | None = None
        self._data_set_at = 0
        with self._record_fault():
            head = part10.file_head(sop_class_uid, sop_instance_uid, transfer_syntax_uid)
            self._data_set_at = len(head)
            self._arriving = begin_file()
            self._arriving.write(head)

    def write(self, fragment: Buffer) -> int:  # type: ignore[override] # BytesIO takes any buffer; these are what comes
        """Take the next bytes of the data set. Never raises."""
        if self._fault is None and self._arriving is not None:
            with self._record_fault():
                self._arriving.write(fragment)
                self._collect_header(fragment)
        return len(fragment)

    def _collect_header(self, fragment: Buffer) -> None:
        if self._beginning is None:
            return
        self._beginning += fragment[: HEADER_PREFIX_BYTES - len(self._beginning)]
        if len(self._beginning) == HEADER_PREFIX_BYTES:
            self._header = part10.read_header_from_prefix(bytes(self._beginning), self._syntax)
            self._beginning = None

    @contextmanager
    def _record_fault(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # whatever it is, the sender hears of it when the request is whole
            self._fault = error

    def finish(self) -> tuple[Header, IncomingFile]:
        """Return header and file of the data set, which has come whole.

        DataSetUnreadable where it cannot be parsed; DataSetMismatch where it is not what the request said; OutOfResources where
        the disk
        would not take it.
        """
        if self._fault is not None:
            raise self._fault
        assert self._arriving is not None
        header = self._header or self._read_full_header(self._arriving)
        found = {"SOPClassUID": header.sop_class_uid, "SOPInstanceUID": header.sop_instance_uid}
        for name, wanted in self._wanted.items():
            if found[name] != wanted:
                raise DataSetMismatch(f"{name} of the data set is not that of the request", hint="the sender must make them agree")
        return header, self._arriving

    def _read_full_header(self, arriving: IncomingFile) -> Header:
        if self._beginning is not None:
            return part10.read_header(bytes(self._beginning), self._syntax)
        with arriving.open() as stream:
            stream.seek(self._data_set_at)
            return part10.read_header(stream, self._syntax)

    def close(self) -> None:
        """Leave nothing behind of a file that was not kept."""
        if self._arriving is not None:
            self._arriving.discard()
        super().close()
