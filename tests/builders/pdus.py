"""PDUs and command sets, written byte by byte (PS3.8 9.3, PS3.7 6.3), and a peer that sends them."""

from __future__ import annotations

import contextlib
import socket
import struct

from pipeline.rules import DIGITAL_X_RAY_FOR_PRESENTATION

DATA = 0
"""Message control header of a data set fragment that is not the last."""


def pdv(context: int, control: int, payload: bytes) -> bytes:
    """A presentation data value item: length, presentation context, message control header, payload."""
    return struct.pack(">LBB", len(payload) + 2, context, control) + payload


def p_data(*items: bytes) -> bytes:
    """A P-DATA-TF PDU of these items."""
    body = b"".join(items)
    return struct.pack(">BBL", 4, 0, len(body)) + body


def item(kind: int, content: bytes, reserved: int = 0) -> bytes:
    """An item or sub-item (PS3.8 9.3.2): type, reserved, length, content."""
    return struct.pack(">BBH", kind, reserved, len(content)) + content


def proposed_context(number: int, abstract_syntax: bytes, *transfer_syntaxes: bytes, extra: bytes = b"") -> bytes:
    """A presentation context item of an A-ASSOCIATE-RQ."""
    names = item(0x30, abstract_syntax) + b"".join(item(0x40, name) for name in transfer_syntaxes)
    return item(0x20, bytes([number, 0, 0, 0]) + names + extra)


DX_CONTEXT = proposed_context(1, DIGITAL_X_RAY_FOR_PRESENTATION.encode(), b"1.2.840.10008.1.2.1")
MAXIMUM_LENGTH = item(0x51, struct.pack(">L", 16384))
IMPLEMENTATION_CLASS = item(0x52, b"1.2.3.4")


def associate_rq(
    *contexts: bytes,
    calling: bytes = b"ORTHANC",
    called: bytes = b"RADCLIPD",
    application: bytes = b"1.2.840.10008.3.1.1.1",
    protocol: int = 1,
    user: bytes = MAXIMUM_LENGTH + IMPLEMENTATION_CLASS,
    extra: bytes = b"",
    reserved: int = 0,
) -> bytes:
    """An A-ASSOCIATE-RQ; the titles padded with spaces to 16 bytes. `reserved`: the value of every reserved byte."""
    unused = bytes([reserved])
    body = struct.pack(">H", protocol) + 2 * unused + called.ljust(16) + calling.ljust(16) + 32 * unused
    body += item(0x10, application, reserved) + b"".join(contexts or (DX_CONTEXT,)) + item(0x50, user, reserved) + extra
    return struct.pack(">BBL", 1, reserved, len(body)) + body


RELEASE_RQ, ABORT = bytes([5, 0, 0, 0, 0, 4, 0, 0, 0, 0]), bytes([7, 0, 0, 0, 0, 4, 0, 0, 0, 0])
ACCEPTED, REJECTED, DATA_PDU, RELEASED, ABORTED, CLOSED = 2, 3, 4, 6, 7, None
"""Types of PDUs that a listener sends; None: it has closed the connection."""


def command_element(number: int, value: bytes) -> bytes:
    """An element of a command set."""
    return struct.pack("<HHL", 0, number, len(value)) + value


def command_set(**elements: bytes | None) -> bytes:
    """The command set of a C-STORE request for a DX instance; a keyword replaces an element, None leaves it out."""
    usual: dict[str, tuple[int, bytes]] = {
        "sop_class": (0x0002, DIGITAL_X_RAY_FOR_PRESENTATION.encode() + b"\0"),
        "field": (0x0100, b"\x01\0"),
        "message_id": (0x0110, b"\x07\0"),
        "priority": (0x0700, b"\0\0"),
        "data_set_type": (0x0800, b"\0\0"),
        "sop_instance": (0x1000, b"1.2.3\0"),
    }
    body = b"".join(
        command_element(number, given)
        for name, (number, value) in usual.items()
        if (given := elements.get(name, value)) is not None
    )
    return command_element(0, struct.pack("<L", len(body))) + body


class RawPeer:
    """A connection to a listener whose PDUs are written by hand."""

    def __init__(self, port: int, *, seconds: float = 15) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=seconds)

    def __enter__(self) -> RawPeer:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def write(self, content: bytes) -> None:
        """Send, as far as the listener still takes it."""
        with contextlib.suppress(OSError):
            self.socket.sendall(content)

    def read(self) -> tuple[int | None, bytes]:
        """Return type and body of the next PDU; (None, b"") where the connection was closed. TimeoutError without an answer."""
        header = self._read_bytes(6)
        if len(header) < 6:
            return CLOSED, b""
        return header[0], self._read_bytes(int.from_bytes(header[2:6], "big"))

    def _read_bytes(self, count: int) -> bytes:
        found = b""
        while len(found) < count:
            try:
                piece = self.socket.recv(count - len(found))
            except ConnectionError:
                return b""
            if not piece:
                return found
            found += piece
        return found

    def associate(self, request: bytes | None = None) -> tuple[int | None, bytes]:
        """Send the request; return the answer."""
        self.write(associate_rq() if request is None else request)
        return self.read()

    def status(self) -> int | None:
        """Return the status of the next response; None where the association was aborted or closed."""
        kind, body = self.read()
        return response_elements(body)[0x0900] if kind == DATA_PDU else None


def response_elements(body: bytes) -> dict[int, int]:
    """Element -> value of the unsigned shorts in the command set of a P-DATA-TF with one PDV."""
    found, at, command = {}, 0, body[6:]
    while at + 8 <= len(command):
        _, element, length = struct.unpack_from("<HHL", command, at)
        if length == 2:
            found[element] = int.from_bytes(command[at + 8 : at + 10], "little")
        at += 8 + length
    return found


def context_results(body: bytes) -> dict[int, tuple[int, str]]:
    """Context id -> result and transfer syntax of an A-ASSOCIATE-AC."""
    found, at = {}, 68
    while at < len(body):
        length = int.from_bytes(body[at + 2 : at + 4], "big")
        content = body[at + 4 : at + 4 + length]
        if body[at] == 0x21:
            found[content[0]] = (content[2], content[8:].decode())
        at += 4 + length
    return found
