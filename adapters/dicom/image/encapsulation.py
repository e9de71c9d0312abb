"""Items of pixel data (PS3.5 A.4) -> the one frame, and what its codestream says of itself before it is decoded."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from io import BytesIO

from openjpeg.utils import get_parameters
from pydicom.pixels.utils import _get_jpg_parameters
from pydicom.uid import UID, JPEG2000TransferSyntaxes, RLELossless

from adapters.dicom.image.element_scan import ITEM, SEQUENCE_DELIMITATION
from pipeline.errors import PixelsUnreadable

FRAME_STARTS = (b"\xff\xd8\xff", b"\xff\x4f\xff\x51", b"\x00\x00\x00\x0cjP  ")
"""First bytes of a frame: JPEG and JPEG-LS, JPEG 2000, JPEG 2000 in a JP2 file."""
RLE_HEADER_BYTES = 64
"""The first offset of an RLE header (PS3.5 G.5), at its fifth byte."""
_DAMAGED_HINT = "let the sender send the instance again under a new SOP Instance UID, or uncompressed"


def split_items(content: memoryview, *, little_endian: bool) -> list[memoryview]:
    """Return the values of the items. PixelsUnreadable where the content is no items, or ends inside one."""
    header, offset, items = struct.Struct("<HHL" if little_endian else ">HHL"), 0, []
    while offset + header.size <= len(content):
        group, element, length = header.unpack_from(content, offset)
        tag, offset = group << 16 | element, offset + header.size
        if tag == SEQUENCE_DELIMITATION:
            break
        if tag != ITEM:
            raise PixelsUnreadable("pixel data of this transfer syntax are items, and these are not", hint=_DAMAGED_HINT)
        if offset + length > len(content):
            raise PixelsUnreadable("pixel data end inside an item: they are truncated", hint=_DAMAGED_HINT)
        items.append(content[offset : offset + length])
        offset += length
    return items


def join_frame(items: list[memoryview], syntax: UID) -> bytes:
    """Return the encoded frame from the items: the offset table, then fragments. PixelsUnreadable unless it is one frame."""
    without_table = items[:1] if items and _begins_frame(bytes(items[0][:12]), syntax) else []
    fragments = [fragment for fragment in (*without_table, *items[1:]) if len(fragment)]
    if not fragments:
        raise PixelsUnreadable("pixel data without any fragment", hint=_DAMAGED_HINT)
    frames = sum(_begins_frame(bytes(fragment[:12]), syntax) for fragment in fragments)
    if frames > 1:
        raise PixelsUnreadable(f"{frames} frames where one is expected", hint="send single-frame radiographs")
    return b"".join(fragments)


def _begins_frame(start: bytes, syntax: UID) -> bool:
    if syntax == RLELossless:
        return len(start) >= 8 and struct.unpack_from("<L", start, 4)[0] == RLE_HEADER_BYTES
    return start.startswith(FRAME_STARTS)


def unwrap_native(content: memoryview, frame_bytes: int, *, little_endian: bool) -> memoryview:
    """Return the uncompressed frame that a sender has put into items: in one, or in one behind an offset table."""
    items = split_items(content, little_endian=little_endian)
    fitting = [item for item in items if 0 <= len(item) - frame_bytes <= 1]
    if len(fitting) != 1 or sum(map(len, items)) - len(fitting[0]) > len(items) * 4:
        raise PixelsUnreadable(
            f"uncompressed pixel data in items of {', '.join(str(len(item)) for item in items[:4])} bytes, not of {frame_bytes}",
            hint="let the sender send the instance without items",
        )
    return fitting[0]


@dataclass(frozen=True, slots=True)
class CodestreamSize:
    """What a codestream states before its data. `precision`: bits of a sample."""

    rows: int
    columns: int
    samples: int
    precision: int


def read_codestream_size(frame: bytes, syntax: UID) -> CodestreamSize | None:
    """Return what the frame's header states; None for RLE, which states nothing. PixelsUnreadable where it cannot be read."""
    if syntax == RLELossless:
        return None
    if syntax in JPEG2000TransferSyntaxes:
        return _read_jpeg_2000_size(frame)
    stated = _get_jpg_parameters(frame)
    if not stated:
        raise PixelsUnreadable("the codestream has no readable header", hint=_DAMAGED_HINT)
    return CodestreamSize(stated["height"], stated["width"], stated["components"], stated["precision"])


def _read_jpeg_2000_size(frame: bytes) -> CodestreamSize:
    try:
        stated = get_parameters(BytesIO(frame))
    except (RuntimeError, ValueError) as error:
        raise PixelsUnreadable("the codestream has no readable header", hint=_DAMAGED_HINT) from error
    return CodestreamSize(int(stated["rows"]), int(stated["columns"]), int(stated["samples_per_pixel"]), int(stated["precision"]))
