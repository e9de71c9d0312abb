"""A reader of PDUs of the DICOM upper layer (PS3.8 9.3) from a byte stream, in any segmentation."""

from __future__ import annotations

P_DATA_TF = 0x04  # PS3.8 9.3.1
OTHER_PDUS = (1, 2, 3, 5, 6, 7)
PDU_HEADER = 6  # type, reserved, length: PS3.8 table 9-22
PDV_HEADER = 6  # item length, presentation context, message control header: table 9-23 and annex E.2
LENGTH_BYTES = 4
COMMAND, DATA, LAST = 0x01, 0x00, 0x02  # bits of the message control header, PS3.8 E.2

BUFFER_BYTES = 1 << 18
"""Buffer size of an association. Only P-DATA-TF PDUs may be larger: an A-ASSOCIATE-RQ has some kilobytes."""
Fragment = tuple[int, memoryview]
"""Presentation context id; message control header followed by bytes of the message. Valid until the next read of the socket."""


class MalformedPdu(Exception):
    """Bytes that are not a valid PDU, or not one of this place; `str(error)` says why."""


class PduReader:
    """Splits a stream of PDUs in one buffer of fixed size: P-DATA-TF into fragments as they arrive, others into complete PDUs.

    Adjacent fragments of one message are joined in the buffer, over the headers between them: one piece to hash and to write.
    """

    def __init__(self, size: int = BUFFER_BYTES) -> None:
        self._view = memoryview(bytearray(1 + size))  # the first byte: space for a message control header
        self._start = self._end = 1
        self._pdu_left = 0  # bytes of the current P-DATA-TF in PDV items not yet begun
        self._pdv_left = 0  # bytes of the current PDV item
        self._context, self._control = 0, 0

    def preload(self, content: bytes) -> None:
        """Put bytes into the empty buffer, as if they had been read."""
        self.get_buffer()[: len(content)] = content
        self.buffer_updated(len(content))

    def get_buffer(self) -> memoryview:
        """Return the free part of the buffer. Fragments returned before become invalid."""
        left = self._end - self._start
        self._view[1 : 1 + left] = self._view[self._start : self._end]
        self._start, self._end = 1, 1 + left
        return self._view[self._end :]

    def buffer_updated(self, count: int) -> None:
        """Record that `count` bytes were read into the buffer."""
        self._end += count

    @property
    def pending(self) -> bool:
        """Whether a fragment or a complete PDU can be read. MalformedPdu."""
        if self._pdv_left:
            return self._start < self._end
        if self._pdu_left:
            return self._end - self._start >= PDV_HEADER
        return self._peek_pdu_type() is not None

    @property
    def holds_data(self) -> bool:
        """Whether the next bytes belong to a P-DATA-TF. MalformedPdu."""
        return bool(self._pdv_left or self._pdu_left) or self._peek_pdu_type() == P_DATA_TF

    def _peek_pdu_type(self) -> int | None:
        """Return the type of the next PDU; None while it, or of a P-DATA-TF the header, is incomplete. MalformedPdu."""
        if self._end - self._start < PDU_HEADER:
            return None
        kind, length = self._view[self._start], self._read_length(self._start + 2)
        if kind == P_DATA_TF:
            return kind
        if kind not in OTHER_PDUS or PDU_HEADER + length >= len(self._view):
            raise MalformedPdu("what it sent is not a PDU, or the PDU is too long")
        return kind if self._end - self._start >= PDU_HEADER + length else None

    def _read_length(self, offset: int) -> int:
        return int.from_bytes(self._view[offset : offset + LENGTH_BYTES], "big")

    def read_pdu(self) -> bytearray:
        """Return and consume a complete PDU of another type than P-DATA-TF."""
        length = PDU_HEADER + self._read_length(self._start + 2)
        content = bytearray(self._view[self._start : min(self._end, self._start + length)])
        self._start += len(content)
        return content

    def discard_all(self) -> None:
        """Consume all bytes in the buffer."""
        self._start = self._end

    def read_fragments(self) -> list[Fragment]:
        """Return and consume fragments, up to the first PDU of another type, or up to the first fault.

        MalformedPdu where the fault comes first: lengths that disagree, or bytes that are no PDU.
        """
        found: list[list[int]] = []  # context, start, end
        while self._has_more_data(after_fragments=bool(found)):
            size = min(self._pdv_left, self._end - self._start)
            self._pdv_left -= size
            control = self._control if not self._pdv_left else self._control & ~LAST
            if found and self._is_continuation(found[-1]):
                end = found[-1][2]
                self._view[end : end + size] = self._view[self._start : self._start + size]
                found[-1][2] = end + size
            else:
                found.append([self._context, self._start - 1, self._start + size])
            self._view[found[-1][1]] = control
            self._start += size
        return [(context, self._view[begin:end]) for context, begin, end in found]

    def _is_continuation(self, before: list[int]) -> bool:
        return before[0] == self._context and self._view[before[1]] == self._control & COMMAND

    def _has_more_data(self, *, after_fragments: bool) -> bool:
        try:
            return self._advance_to_data()
        except MalformedPdu:
            if after_fragments:  # the next call raises it
                return False
            raise

    def _advance_to_data(self) -> bool:
        """Move past headers to the next bytes of a PDV. False where there are none."""
        while not self._pdv_left:
            available = self._end - self._start
            if not self._pdu_left:
                if available < PDU_HEADER or self._peek_pdu_type() != P_DATA_TF:
                    return False
                self._pdu_left = self._read_length(self._start + 2)
                self._start += PDU_HEADER
                continue
            if available < PDV_HEADER:
                return False
            length = self._read_length(self._start)
            if not 2 <= length <= self._pdu_left - LENGTH_BYTES:
                raise MalformedPdu("the length of a PDV is not that of its PDU")
            self._context, self._control = self._view[self._start + 4], self._view[self._start + 5] & (COMMAND | LAST)
            self._pdu_left -= LENGTH_BYTES + length
            self._pdv_left = length - 2
            self._start += PDV_HEADER
            if not self._pdv_left:
                return True
        return self._start < self._end
