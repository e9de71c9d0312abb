"""DICOM files (PS3.10): encoded data set -> header, encoded data set -> file. Pixel data is never decoded."""

from __future__ import annotations

import re
import struct
import warnings
import zlib
from datetime import date
from functools import cache, lru_cache
from io import SEEK_END, BytesIO
from typing import Any, BinaryIO, cast

from pydicom import config as pydicom_config
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import _read_file_meta_info, read_dataset
from pydicom.filewriter import write_file_meta_info
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag, Tag
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from adapters.dicom.image.element_scan import KNOWN_VRS, ElementScan
from pipeline.domain import Header
from pipeline.errors import DataSetMismatch, DataSetUnreadable

pydicom_config.settings.reading_validation_mode = pydicom_config.IGNORE  # values are stored as they were sent

IMPLEMENTATION_CLASS_UID = "2.25.214748590326817464279126094835116278147"
"""A UUID-derived UID (PS3.5 B.2). Fixed, so that a data set gives the same file in every release."""
IMPLEMENTATION_VERSION_NAME = "RADCLIPD"

PREAMBLE = b"\0" * 128 + b"DICM"
GROUP_LENGTH, INSTANCE_TAG = b"\x02\0\0\0UL\x04\0", b"\x02\0\x03\0UI"
"""First bytes of (0002,0000) and (0002,0003), explicit VR little endian."""
FLOAT_PIXEL_DATA, DOUBLE_FLOAT_PIXEL_DATA, PIXEL_DATA = PIXEL_TAGS = (0x7FE00008, 0x7FE00009, 0x7FE00010)
"""The elements that hold pixels. Before them in their group: group length, Extended Offset Table and its lengths."""
UID_PATTERN = re.compile(r"[0-9.]{1,64}")  # PS3.5 9.1; leading zeros in a component occur in practice and do no harm
MAX_INFLATED_HEADER_BYTES = 1 << 24
"""The inflated beginning of a deflated data set that is parsed; the elements in the catalog stand far before its end."""
MAX_VALUE_BYTES = 1 << 16
"""Longer values are skipped: no element in the catalog is as long."""
MAX_HEADER_BYTES = 1 << 26
"""Limit of the bytes read before the pixel data, skipped values not counted: a sender must not exhaust the memory."""
MAX_HEADER_READS = 1 << 18
"""Limit of the reads before the pixel data, one to three for each element, also in sequences: a second of processor time."""

IDENTIFYING_KEYWORDS = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "PatientID")
"""Every composite instance has at least one of these; bytes without any of them parsed by accident."""
TEXT_LIMITS = {
    "patient_id": 128,
    "issuer_of_patient_id": 128,
    "patient_sex": 16,
    "patient_age": 4,
    "accession_number": 64,
    "study_time": 16,
    "study_description": 128,
    "modality": 16,
    "series_description": 128,
    "body_part_examined": 64,
    "protocol_name": 128,
    "manufacturer": 64,
    "manufacturer_model_name": 64,
    "station_name": 64,
    "view_position": 64,
    "presentation_intent_type": 16,
    "conversion_type": 16,
}
"""Header field -> maximum of characters. Above the limits of the standard, for senders that exceed them."""
NUMBER_FIELDS = ("series_number", "instance_number", "rows", "columns", "number_of_frames", "samples_per_pixel")
MAX_NUMBER = 2**31 - 1  # VR IS, PS3.5 6.2
MAX_AGE_YEARS = 130


@cache
def _derive_keyword(name: str) -> str:
    """patient_id -> PatientID."""
    return "".join({"id": "ID", "of": "Of"}.get(part, part.capitalize()) for part in name.split("_"))


HEADER_TAGS = {
    Tag(keyword)
    for keyword in (
        *map(_derive_keyword, (*TEXT_LIMITS, *NUMBER_FIELDS)),
        *("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"),
        *("StudyDate", "PatientBirthDate", "ImageType", "ViewCodeSequence", "AnatomicRegionSequence"),
    )
}
"""The elements that a Header is built from."""


def read_header(encoded: bytes | BinaryIO, transfer_syntax_uid: str) -> Header:
    """Read the header from an encoded data set (no file meta), or from a stream at the start of one.

    DataSetUnreadable where it cannot be parsed; DataSetMismatch where a UID that every instance has is missing.
    """
    stream = BytesIO(encoded) if isinstance(encoded, bytes) else encoded
    return _build_header(*_read_to_pixel_data(stream, transfer_syntax_uid, whole=True), transfer_syntax_uid)


def read_header_from_prefix(prefix: bytes, transfer_syntax_uid: str) -> Header | None:
    """Read the header from the first bytes of a data set; None where they end before the pixel data. DataSetMismatch as above."""
    if transfer_syntax_uid == DeflatedExplicitVRLittleEndian:
        return None
    try:
        dataset, has_pixels = _read_to_pixel_data(BytesIO(prefix), transfer_syntax_uid, whole=False)
    except DataSetUnreadable:  # possibly because the prefix ends inside an element
        return None
    return None if has_pixels is None else _build_header(dataset, has_pixels, transfer_syntax_uid)


def _build_header(dataset: Dataset, has_pixels: bool | None, transfer_syntax_uid: str) -> Header:
    values: dict[str, Any] = {name: _get_text(dataset, _derive_keyword(name), limit) for name, limit in TEXT_LIMITS.items()}
    values |= {name: _get_number(dataset, _derive_keyword(name)) for name in NUMBER_FIELDS}
    study_date = re.sub(r"\D", "", _get_text(dataset, "StudyDate", 16))[:8]
    values["patient_age"] = values["patient_age"] or _compute_age(_get_text(dataset, "PatientBirthDate", 16), study_date)
    return Header(
        sop_instance_uid=_require_uid(dataset, "SOPInstanceUID"),
        sop_class_uid=_require_uid(dataset, "SOPClassUID"),
        series_instance_uid=_require_uid(dataset, "SeriesInstanceUID"),
        study_instance_uid=_require_uid(dataset, "StudyInstanceUID"),
        transfer_syntax_uid=str(transfer_syntax_uid),
        study_date=study_date,
        view_code=_get_code_text(dataset, "ViewCodeSequence", "CodeValue", 16),
        view_code_meaning=_get_code_text(dataset, "ViewCodeSequence", "CodeMeaning", 64),
        anatomic_region_code=_get_code_text(dataset, "AnatomicRegionSequence", "CodeValue", 16),
        anatomic_region_meaning=_get_code_text(dataset, "AnatomicRegionSequence", "CodeMeaning", 64),
        image_type=tuple(part[:16] for part in _get_text(dataset, "ImageType", 256).split("\\") if part),
        has_pixels=bool(has_pixels),
        **values,
    )


def _compute_age(birth_date: str, study_date: str) -> str:
    """Return the age on the day of the study (VR AS, PS3.5 6.2), "" where a date is missing. The birth date itself is not kept."""
    try:
        born, seen = (date(int(day[:4]), int(day[4:6]), int(day[6:8])) for day in (re.sub(r"\D", "", birth_date), study_date))
    except ValueError:
        return ""
    months = 12 * (seen.year - born.year) + seen.month - born.month - (seen.day < born.day)
    if not 0 <= months < 12 * MAX_AGE_YEARS:
        return ""
    return f"{months // 12:03d}Y" if months >= 24 else f"{months:03d}M"


def file_bytes(encoded: bytes, *, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str) -> bytes:
    """Return the DICOM file: preamble, file meta information, the data set unchanged. Same data set, same bytes."""
    return b"".join((file_head(sop_class_uid, sop_instance_uid, transfer_syntax_uid), encoded))


def file_head(sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str) -> bytes:
    """Return the part of a file before its data set: preamble and file meta information."""
    before, after = _encode_file_meta(sop_class_uid, transfer_syntax_uid)
    uid = UID(sop_instance_uid).encode("ascii")
    uid += b"\0" * (len(uid) % 2)
    element = INSTANCE_TAG + struct.pack("<H", len(uid)) + uid
    group_length = struct.pack("<L", len(before) + len(element) + len(after))
    return PREAMBLE + GROUP_LENGTH + group_length + before + element + after


@lru_cache(maxsize=64)
def _encode_file_meta(sop_class_uid: str, transfer_syntax_uid: str) -> tuple[bytes, bytes]:
    """Return the file meta information before and after its SOP Instance UID, without its group length: equal for many files."""
    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\x00\x01"
    meta.MediaStorageSOPClassUID = UID(sop_class_uid)
    meta.MediaStorageSOPInstanceUID = UID("0.0")
    meta.TransferSyntaxUID = UID(transfer_syntax_uid)
    meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    head = DicomBytesIO()
    write_file_meta_info(head, meta, enforce_standard=True)
    before, after = bytes(head.getvalue()[len(GROUP_LENGTH) + 4 :]).split(INSTANCE_TAG + b"\x04\x000.0\0")
    return before, after


def split_file(content: bytes) -> tuple[bytes, str]:
    """Return encoded data set and Transfer Syntax UID of a DICOM file, also of one without preamble or file meta.

    DataSetUnreadable where the content is not DICOM.
    """
    stream = BytesIO(content)
    stream.seek(len(PREAMBLE) if content[128:132] == b"DICM" else 0)
    try:
        meta = _read_file_meta_info(stream)
    except Exception as error:  # pydicom raises exceptions of any type on invalid bytes
        raise DataSetUnreadable(f"file meta information cannot be read: {type(error).__name__}", hint=_NOT_DICOM_HINT) from error
    encoded = content[stream.tell() :]
    if not encoded:
        raise DataSetUnreadable("the file holds no data set", hint=_NOT_DICOM_HINT)
    return encoded, str(meta.get("TransferSyntaxUID") or _guess_transfer_syntax(encoded))


_LONG_HEADER_HINT = f"radclipd reads {MAX_HEADER_BYTES >> 20} MiB and some 100 000 elements; is it a damaged file?"
_NOT_DICOM_HINT = "is it a DICOM file, and complete? dcmdump FILE tells"


def _guess_transfer_syntax(encoded: bytes) -> str:
    """Tell explicit VR by the two capital letters after the first tag (PS3.5 7.1.2)."""
    if not re.fullmatch(rb"[A-Z]{2}", encoded[4:6]):
        return str(ImplicitVRLittleEndian)
    return str(ExplicitVRBigEndian if encoded[0] == 0 and encoded[1] != 0 else ExplicitVRLittleEndian)


def _read_to_pixel_data(stream: BinaryIO, transfer_syntax_uid: str, *, whole: bool) -> tuple[Dataset, bool | None]:
    """Return the data set before the pixel data, and whether there is any; None where the stream ended before.

    A length that points beyond the end, or to no element, may hide pixel data: they count as there, and their reader tells.

    `whole`: the stream holds the data set to its end, and not only its beginning.
    """
    try:
        if transfer_syntax_uid == DeflatedExplicitVRLittleEndian:
            stream = BytesIO(
                zlib.decompressobj(-zlib.MAX_WBITS).decompress(stream.read(MAX_INFLATED_HEADER_BYTES), MAX_INFLATED_HEADER_BYTES)
            )
            whole = False
        bounded = _BoundedStream(stream)
        little_endian = transfer_syntax_uid != ExplicitVRBigEndian
        scan = ElementScan(cast(BinaryIO, bounded), little_endian=little_endian, whole=whole, stop=lambda tag: tag >= PIXEL_TAGS[0])
        dataset = _parse_data_set(bounded, transfer_syntax_uid, scan)
    except DataSetUnreadable:
        raise
    except Exception as error:  # of any type, as above
        raise DataSetUnreadable(f"the data set cannot be parsed: {type(error).__name__}", hint=_NOT_DICOM_HINT) from error
    if not any(keyword in dataset for keyword in IDENTIFYING_KEYWORDS):
        raise DataSetUnreadable("the data set has no SOP class, no UID and no patient: it is none", hint=_NOT_DICOM_HINT)
    reached = scan.stopped_at
    if reached is None:
        is_cut_off = whole and bounded.tell() > bounded.seek(0, SEEK_END)
        return dataset, True if is_cut_off else None
    is_element = reached.vr is None or reached.vr in KNOWN_VRS
    return dataset, not is_element or (reached.tag in PIXEL_TAGS and reached.length != 0)


def _parse_data_set(stream: _BoundedStream, transfer_syntax_uid: str, scan: ElementScan) -> Dataset:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's warnings quote the value
        try:
            return read_dataset(
                cast(BinaryIO, stream),
                is_implicit_VR=transfer_syntax_uid == ImplicitVRLittleEndian,
                is_little_endian=transfer_syntax_uid != ExplicitVRBigEndian,
                stop_when=scan,
                defer_size=MAX_VALUE_BYTES,
                specific_tags=list(HEADER_TAGS),
            )
        except Exception as error:
            if stream.is_exhausted:  # pydicom replaces exceptions within a sequence
                raise DataSetUnreadable("the data set has too much before its pixel data", hint=_LONG_HEADER_HINT) from error
            raise


class _BoundedStream:
    """A stream from which no more than MAX_HEADER_BYTES are read, in no more than MAX_HEADER_READS pieces."""

    def __init__(self, stream: BinaryIO) -> None:
        self.tell, self.seek = stream.tell, stream.seek
        self._read, self._left, self._reads_left = stream.read, MAX_HEADER_BYTES, MAX_HEADER_READS

    @property
    def is_exhausted(self) -> bool:
        return self._left < 0 or self._reads_left < 0

    def read(self, size: int) -> bytes:
        """Read; ValueError beyond the limits. pydicom would take an EOFError for the end of the data set."""
        self._left -= size
        self._reads_left -= 1
        if self.is_exhausted:
            raise ValueError("too much before the pixel data")
        return self._read(size)


@cache
def _lookup_tag(keyword: str) -> BaseTag:
    return Tag(keyword)


def _get_value(dataset: Dataset, keyword: str) -> Any:
    """Return the value or None. Look-up by tag takes half the time of one by keyword; a header has thirty."""
    element = dataset.get(_lookup_tag(keyword))
    return None if element is None else element.value


def _get_text(dataset: Dataset, keyword: str, limit: int) -> str:
    try:
        value = _get_value(dataset, keyword)
        joined = "\\".join(map(str, value)) if isinstance(value, MultiValue) else str(value or "")
    except Exception:  # an element that cannot be decoded counts as absent
        return ""
    return joined.replace("\0", "").strip()[:limit].encode("utf-8", "replace").decode("utf-8")


def _get_number(dataset: Dataset, keyword: str) -> int | None:
    try:
        number = int(str(_get_value(dataset, keyword)).split("\\")[0])
    except Exception:  # as above
        return None
    return number if 0 <= number <= MAX_NUMBER else None


def _get_code_text(dataset: Dataset, sequence: str, keyword: str, limit: int) -> str:
    try:
        items = _get_value(dataset, sequence)
        return _get_text(items[0], keyword, limit) if items else ""
    except Exception:  # as above
        return ""


def _require_uid(dataset: Dataset, keyword: str) -> str:
    uid = _get_text(dataset, keyword, 128)
    if not UID_PATTERN.fullmatch(uid):
        raise DataSetMismatch(
            f"{keyword} is {'missing' if not uid else 'not a UID'}", hint="the sender must give every instance its UIDs (PS3.5 9.1)"
        )
    return uid
