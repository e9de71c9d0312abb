"""PDUs read from a stream in any segmentation, with invalid lengths, and in bounded memory."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.dicom.network.pdu_reader import COMMAND, LAST, MalformedPdu, PduReader
from tests.builders.pdus import DATA, p_data, pdv

RELEASE = b"\x05\x00\x00\x00\x00\x04\x00\x00\x00\x00"
Message = tuple[int, int, bytes]
"""Presentation context, message control header of the last fragment, content."""


def feed(reader: PduReader, stream: bytes) -> Iterator[tuple[int, bytes] | bytes]:
    """Fill the reader as a socket would, as far as its buffer allows; yield copies of fragments and PDUs."""
    while stream:
        buffer = reader.get_buffer()
        count = min(len(buffer), len(stream))
        assert count, "the buffer is full"
        buffer[:count] = stream[:count]
        reader.buffer_updated(count)
        stream = stream[count:]
        while reader.pending:
            if reader.holds_data:
                yield from [(context, bytes(fragment)) for context, fragment in reader.read_fragments()]
            else:
                yield bytes(reader.read_pdu())


def join_fragments(read: list[tuple[int, bytes] | bytes]) -> list[Message | bytes]:
    found: list[Message | bytes] = []
    content = b""
    for one in read:
        if isinstance(one, bytes):
            found.append(one)
            continue
        content += one[1][1:]
        if one[1][0] & LAST:
            found.append((one[0], one[1][0], content))
            content = b""
    assert not content
    return found


def split_into_items(message: tuple[int, int, list[bytes]]) -> list[bytes]:
    context, kind, parts = message
    return [
        pdv(context, kind | (LAST if left == 1 else 0), part) for left, part in zip(range(len(parts), 0, -1), parts, strict=True)
    ]


PARTS = st.lists(st.binary(max_size=300), min_size=1, max_size=5)
MESSAGES = st.lists(st.tuples(st.sampled_from([1, 3, 255]), st.sampled_from([COMMAND, DATA]), PARTS), max_size=5)


@given(MESSAGES, st.data(), st.integers(16, 400))
def test_messages_are_read_as_they_were_sent(sent: list[tuple[int, int, list[bytes]]], data: st.DataObject, size: int) -> None:
    items = [item for message in sent for item in split_into_items(message)]
    stream = b""
    while items:  # any number of items in a PDU
        count = data.draw(st.integers(1, len(items)))
        stream, items = stream + p_data(*items[:count]), items[count:]
    stream += RELEASE
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    reader, read = PduReader(size), list[tuple[int, bytes] | bytes]()
    for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        read += feed(reader, stream[begin:end])
    assert join_fragments(read) == [*((context, kind | LAST, b"".join(parts)) for context, kind, parts in sent), RELEASE]


def test_adjacent_fragments_of_a_message_are_joined() -> None:
    stream = b"".join(p_data(pdv(1, DATA, b"x" * 100)) for _ in range(9)) + p_data(pdv(1, DATA | LAST, b"y"))
    assert list(feed(PduReader(4096), stream)) == [(1, b"\x02" + b"x" * 900 + b"y")]


@given(st.integers(1, 400))
def test_a_truncated_pdu_ends_no_message(length: int) -> None:
    whole = p_data(pdv(1, DATA | LAST, b"x" * 400))
    read = list(feed(PduReader(), whole[:length]))
    assert not any(one[1][0] & LAST for one in read if isinstance(one, tuple))


def test_a_pdu_of_four_gigabytes_needs_no_larger_buffer() -> None:
    reader = PduReader(1000)
    begun = struct.pack(">BBLLBB", 4, 0, 0xFFFFFFFF, 0xFFFFFFFB, 1, DATA) + b"x" * 94
    read = [*feed(reader, begun), *(one for _ in range(50) for one in feed(reader, b"x" * 1000))]
    pieces = [one[1] for one in read if isinstance(one, tuple)]
    assert sum(len(piece) - 1 for piece in pieces) == 50_094
    assert max(map(len, pieces)) <= 1001


@pytest.mark.parametrize(
    "stream",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x08\x00\x00\x00\x00\x04\x00\x00\x00\x00",
        b"\x01\x00\x00\x10\x00\x00",
        p_data(pdv(1, DATA, b"xx"))[:8] + b"\x00\x09" + b"\x01\x00xx",
        p_data(struct.pack(">LBB", 1, 1, 0)),
        p_data(struct.pack(">LBB", 0, 1, 0)),
        p_data(pdv(1, DATA, b"xx"), b"\x00"),
        p_data(b"\x00\x00\x00"),
    ],
    ids=[
        "HTTP",
        "type 8",
        "A-ASSOCIATE-RQ of a megabyte",
        "item beyond its PDU",
        "item without header",
        "empty item",
        "odd byte",
        "incomplete item",
    ],
)
def test_an_invalid_pdu_is_reported(stream: bytes) -> None:
    with pytest.raises(MalformedPdu):
        list(feed(PduReader(), stream + RELEASE * 2))


def test_a_pdu_without_items_is_skipped() -> None:
    assert list(feed(PduReader(), p_data() + RELEASE)) == [RELEASE]
