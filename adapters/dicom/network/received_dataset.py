"""The data set of one C-STORE while it arrives: written to a file as it comes, its header parsed on the way, none of it held."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO

from adapters.dicom.image import part10
from pipeline.domain import Header
from pipeline.errors import DataSetMismatch
from pipeline.ports.services import Buffer, IncomingFile

HEADER_PREFIX_BYTES = 1 << 15
"""The first bytes of a data set, in which its header is looked for; a longer header is read from the file at the end."""


class RefusedDataset(BytesIO):
    """The data set of a C-STORE that its request alone decides: its bytes are dropped."""

    is_discarded = True

    def __init__(self, status: int, why: str) -> None:
        super().__init__()
        self.status, self.why = status, why

    def write(self, fragment: Buffer) -> int:  # type: ignore[override] # as below
        """Drop the bytes."""
        return len(fragment)


class ReceivedDataset(BytesIO):
    """The BytesIO to which the fragments of a data set are written: it forwards them to a file and keeps nothing.

    The thread that reads the network goes on after an error: the error is recorded, the file is deleted at once, the rest of the
    data set is dropped, and `finish` raises the error.
    """

    def __init__(
        self, open_incoming: Callable[[], IncomingFile], *, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str
    ) -> None:
        """Begin a file for the instance that the C-STORE request names."""
        super().__init__()
        self._requested_uids = {"SOPClassUID": sop_class_uid, "SOPInstanceUID": sop_instance_uid}
        self._transfer_syntax = transfer_syntax_uid
        self._prefix: bytearray | None = bytearray()  # None once it has been parsed
        self._header: Header | None = None
        self._file: IncomingFile | None = None
        self._fault: Exception | None = None
        self._data_set_offset = 0
        with self._record_fault():
            head = part10.file_head(sop_class_uid, sop_instance_uid, transfer_syntax_uid)
            self._data_set_offset = len(head)
            self._file = open_incoming()
            self._file.write(head)

    def write(self, fragment: Buffer) -> int:  # type: ignore[override] # BytesIO takes any buffer; the network delivers these
        """Write the next bytes of the data set to the file. Never raises."""
        if self._fault is None and self._file is not None:
            with self._record_fault():
                self._file.write(fragment)
                self._collect_header(fragment)
        return len(fragment)

    def _collect_header(self, fragment: Buffer) -> None:
        if self._prefix is None:
            return
        self._prefix += fragment[: HEADER_PREFIX_BYTES - len(self._prefix)]
        if len(self._prefix) == HEADER_PREFIX_BYTES:
            self._header = part10.read_header_from_prefix(bytes(self._prefix), self._transfer_syntax)
            self._prefix = None

    @contextmanager
    def _record_fault(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # of any kind: `finish` raises it, and the sender gets its status
            self._fault = error
            self._discard_file()

    @property
    def is_discarded(self) -> bool:
        """Whether the rest of the data set is dropped."""
        return self._fault is not None

    @property
    def fault(self) -> Exception | None:
        """The error that `finish` will raise."""
        return self._fault

    def finish(self) -> tuple[Header, IncomingFile]:
        """Return header and file of the complete data set.

        DataSetUnreadable where it cannot be parsed; DataSetMismatch where its UIDs are not those of the request; OutOfResources
        where the disk did not take it.
        """
        if self._fault is not None:
            raise self._fault
        assert self._file is not None
        header = self._header or self._read_full_header(self._file)
        found = {"SOPClassUID": header.sop_class_uid, "SOPInstanceUID": header.sop_instance_uid}
        for name, requested in self._requested_uids.items():
            if found[name] != requested:
                raise DataSetMismatch(f"{name} of the data set is not that of the request", hint="the sender must make them agree")
        return header, self._file

    def _read_full_header(self, file: IncomingFile) -> Header:
        if self._prefix is not None:
            return part10.read_header(bytes(self._prefix), self._transfer_syntax)
        with file.open() as stream:
            stream.seek(self._data_set_offset)
            return part10.read_header(stream, self._transfer_syntax)

    def close(self) -> None:
        """Discard the file unless it was committed."""
        self._discard_file()
        super().close()

    def _discard_file(self) -> None:
        if self._file is not None:
            self._file.discard()
