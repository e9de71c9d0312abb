"""The header of a scored image as evidence of an SR: the elements that the SR copies, each read and repaired by itself.

Senders leave elements out, exceed their VR and declare wrong character sets. An element that breaks its VR (PS3.5 6.2) is cut or
left out; no other element is read, so none can prevent a report. An identifier is never cut: a part of it may name another patient
or order.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Sequence
from datetime import datetime
from io import BytesIO
from typing import Any

from pydicom import dcmread
from pydicom.charset import convert_encodings, decode_bytes, default_encoding
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import UID
from pydicom.valuerep import TEXT_VR_DELIMS, PersonName

from adapters.dicom.image.image_file import inflate_file
from adapters.dicom.sr.dataset_template import UTF_8
from pipeline.errors import ReportImpossible

UIDS = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
TYPE_2 = (  # PS3.3 C.7.1.1 and C.7.2.1: may be empty, must be present
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "StudyID",
    "ReferringPhysicianName",
)
CLINICAL_TRIAL = (  # PS3.3 C.7.1.3: all of these or none
    "ClinicalTrialSponsorName",
    "ClinicalTrialProtocolID",
    "ClinicalTrialProtocolName",
    "ClinicalTrialSiteID",
    "ClinicalTrialSiteName",
    "ClinicalTrialSubjectID",
)
GEOMETRY = ("PatientOrientation", "ImagerPixelSpacing")
NAME_GROUPS, NAME_COMPONENTS, NAME_GROUP_LENGTH = 3, 5, 64  # VR PN, PS3.5 6.2.1
MAX_DS_LENGTH = 16
_UID = re.compile(r"(?=.{1,64}$)[0-9]+(?:\.[0-9]+)*")
_TIME = re.compile(r"(?:[01]\d|2[0-3])(?:[0-5]\d(?:[0-5]\d(?:\.\d{1,6})?)?)?")
_AGE = re.compile(r"\d{3}[DWMY]")
_ORIENTATION = re.compile(r"[A-Z]{1,16}")
_DECIMAL = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")

Repair = Callable[[str], Any]
"""Text of an element, its values separated by backslashes -> valid value; None: leave it out."""


def evidence_of(content: bytes) -> FileDataset:
    """Return the normalised header of a stored file in UTF-8. ReportImpossible where the file or its UIDs cannot be read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom's warnings quote the value
            wanted = ["SpecificCharacterSet", "Rows", "Columns", *UIDS, *REPAIRS]
            source = dcmread(
                BytesIO(inflate_file(content)), stop_before_pixels=True, specific_tags=[_get_tag(keyword) for keyword in wanted]
            )
            return _repair_header(source)
    except ReportImpossible:
        raise
    except Exception as error:  # pydicom raises exceptions of any type on a file that is not whole
        raise ReportImpossible(f"the image's header cannot be read ({type(error).__name__})", hint="see the sender") from error


def _repair_header(source: FileDataset) -> FileDataset:
    header = FileDataset(BytesIO(), Dataset(), preamble=source.preamble, file_meta=source.file_meta)
    header.SpecificCharacterSet = UTF_8
    encodings = _choose_encodings(source)
    for keyword in UIDS:
        setattr(header, keyword, _require_uid(source, keyword))
    for keyword, repair in REPAIRS.items():
        value = repair(_read_text(source, keyword, encodings))
        if value is not None:
            setattr(header, keyword, value)
    for keyword in ("Rows", "Columns"):
        if (number := _read_unsigned(source, keyword)) is not None:
            setattr(header, keyword, number)
    _complete_header(header)
    return header


def _complete_header(header: Dataset) -> None:
    for keyword in TYPE_2:
        if header.get(keyword) is None:
            setattr(header, keyword, "")
    if any(not header.get(keyword) for keyword in CLINICAL_TRIAL):
        for keyword in CLINICAL_TRIAL:
            header.pop(_get_tag(keyword), None)
    if "Modality" not in header or not all(keyword in header for keyword in GEOMETRY):
        header.Modality = "OT"  # omits the geometry rows of the image library; an orientation must never be invented


def _choose_encodings(source: Dataset) -> list[str]:
    """Return Python's names of the declared character sets; of the default one where the declaration is invalid."""
    try:
        declared = [part.strip() for part in _read_declaration(source).strip("\0 ").split("\\")]
        return convert_encodings(declared) if any(declared) else [default_encoding]
    except Exception:  # pydicom raises exceptions of any type on a declaration
        return [default_encoding]


def _read_declaration(source: Dataset) -> str:
    """Return Specific Character Set, its values separated by backslashes. pydicom has converted this element already."""
    element = source.get_item(_get_tag("SpecificCharacterSet"))
    if isinstance(element, RawDataElement) or element is None:
        return _read_bytes(source, "SpecificCharacterSet").decode("ascii")
    return "\\".join(map(str, element.value)) if element.VM > 1 else str(element.value or "")


def _read_text(source: Dataset, keyword: str, encodings: Sequence[str]) -> str:
    """Return an element as text, "" where it is missing or cannot be decoded.

    Without a declared character set valid UTF-8 is taken for UTF-8: hardly any other text is valid UTF-8 by accident.
    """
    encoded = _read_bytes(source, keyword)
    try:
        if list(encodings) == [default_encoding]:
            try:
                return encoded.decode("utf-8")
            except UnicodeDecodeError:
                return encoded.decode("latin-1")
        if keyword.endswith("Name") and b"\\" not in encoded and b"=" in encoded:
            return str(PersonName(encoded, list(encodings)))
        return decode_bytes(encoded, list(encodings), TEXT_VR_DELIMS)
    except Exception:  # as above
        return encoded.decode("ascii", errors="ignore")


def _read_bytes(source: Dataset, keyword: str) -> bytes:
    """Return the encoded value of an element, whatever its VR; b"" where it is missing."""
    element = source.get_item(_get_tag(keyword))
    value = element.value if isinstance(element, RawDataElement) else None
    return value if isinstance(value, bytes) else b""


def _read_unsigned(source: FileDataset, keyword: str) -> int | None:
    """Return an element of VR US, one value above 0; None for anything else."""
    encoded = _read_bytes(source, keyword)
    element = source.get_item(_get_tag(keyword))
    is_little_endian = element.is_little_endian if isinstance(element, RawDataElement) else True
    number = int.from_bytes(encoded, "little" if is_little_endian else "big") if len(encoded) == 2 else 0
    return number or None


def _require_uid(source: Dataset, keyword: str) -> UID:
    """Return a UID as it was received: a reference must name the image by the UID that the archive has."""
    uid = _read_bytes(source, keyword).decode("ascii", errors="replace").strip("\0 ")
    if not _UID.fullmatch(uid):
        raise ReportImpossible(f"the image's {keyword} is not a UID", hint="see the sender")
    return UID(uid)


def _get_tag(keyword: str) -> int:
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise KeyError(keyword)
    return tag


def _strip_controls(text: str, kept: str = "") -> str:
    return "".join(c for c in text if c in kept or (c.isprintable() and c != "\ufeff")).strip()


def _cut_bytes(text: str, limit: int) -> str:
    return text.encode()[:limit].decode(errors="ignore")


def _cut_text(limit: int) -> Repair:
    """Return the repair of one descriptive value of at most `limit` bytes: validators count bytes, the standard characters."""

    def repair(text: str) -> str | None:
        described = _strip_controls(text.replace("\\", "/"))
        return _cut_bytes(described, limit).strip() or None

    return repair


def _keep_identifier(limit: int) -> Repair:
    """Return the repair of an identifier: whole, or left out."""

    def repair(text: str) -> str | None:
        identifier = text.strip("\0 ")
        is_whole = len(identifier.encode()) <= limit and identifier.isprintable() and "\\" not in identifier
        return identifier if identifier and is_whole else None

    return repair


def _repair_name(text: str) -> str | None:
    """Return one person name of at most three groups of five components (PS3.5 6.2.1)."""
    groups = []
    for group in text.split("\\")[0].split("=")[:NAME_GROUPS]:
        components = [_strip_controls(component) for component in group.split("^")[:NAME_COMPONENTS]]
        groups.append(_cut_bytes("^".join(components), NAME_GROUP_LENGTH).rstrip("^ "))
    return "=".join(groups).rstrip("=") or None


def _repair_date(text: str) -> str | None:
    date = text.strip("\0 ")
    try:
        return date if re.fullmatch(r"[0-9]{8}", date) and datetime.strptime(date, "%Y%m%d") else None
    except ValueError:
        return None


def _require_form(pattern: re.Pattern[str]) -> Repair:
    """Return the repair of a value that has this form, or is left out: a guess at its meaning may be wrong."""

    def repair(text: str) -> str | None:
        value = text.strip("\0 ")
        return value if value.isascii() and pattern.fullmatch(value) else None

    return repair


def _repair_orientation(text: str) -> list[str] | None:
    values = [part.strip("\0 ") for part in text.split("\\")]
    return values if len(values) == 2 and all(value.isascii() and _ORIENTATION.fullmatch(value) for value in values) else None


def _repair_spacing(text: str) -> list[str] | None:
    values = [part.strip("\0 ") for part in text.split("\\")]
    if len(values) != 2 or any(len(value) > MAX_DS_LENGTH or not _DECIMAL.fullmatch(value) for value in values):
        return None
    return values if all(0.0 < float(value) < math.inf for value in values) else None


REPAIRS: dict[str, Repair] = {
    "PatientName": _repair_name,
    "PatientID": _keep_identifier(64),
    "IssuerOfPatientID": _keep_identifier(64),
    "PatientBirthDate": _repair_date,
    "PatientSex": _require_form(re.compile(r"[MFO]")),
    "PatientAge": _require_form(_AGE),
    "StudyDate": _repair_date,
    "StudyTime": _require_form(_TIME),
    "AccessionNumber": _keep_identifier(16),
    "StudyID": _keep_identifier(16),
    "ReferringPhysicianName": _repair_name,
    "StudyDescription": _cut_text(64),
    "FrameOfReferenceUID": _require_form(re.compile(r"(?=.{1,64}$)[0-2](?:\.(?:0|[1-9]\d*))+")),
    **dict.fromkeys(CLINICAL_TRIAL, _cut_text(64)),
    "Modality": _require_form(re.compile(r"[A-Z0-9 _]{1,16}")),
    "PatientOrientation": _repair_orientation,
    "ImagerPixelSpacing": _repair_spacing,
}
"""Elements of the patient, the study and the image that an SR copies -> their repair."""
