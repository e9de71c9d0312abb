"""A stored CR or DX file -> a de-identified one: the allowed attributes, pseudonyms, moved dates, and uncompressed pixels.

The pixels are written anew, without the comments, overlays and trailing bytes that an encoding may hold.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from io import BytesIO
from typing import Any, Literal

import numpy as np
from pydicom import dcmread
from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.uid import UID, ExplicitVRLittleEndian

from adapters.dicom.deidentification import attributes
from adapters.dicom.image import stored_values
from adapters.dicom.image.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from pipeline.errors import PixelsUnreadable
from pipeline.export import NotExportable, limit_age
from pipeline.pseudonyms import date_shift, export_pseudonym, export_uid, shift_date
from pipeline.rules import COMPUTED_RADIOGRAPHY, DIGITAL_X_RAY_FOR_PRESENTATION, DIGITAL_X_RAY_FOR_PROCESSING

EXPORTED_CLASSES = (COMPUTED_RADIOGRAPHY, DIGITAL_X_RAY_FOR_PRESENTATION, DIGITAL_X_RAY_FOR_PROCESSING)
METHOD = "radclipd allow-list"
CODE_STRING = re.compile(r"[A-Z0-9_ ]{0,16}")
"""PS3.5 section 6.2, VR CS."""
WORD = re.compile(r"\w+")
MIN_WORD = 4
"""Characters of a word of an identity from which on it is looked for in kept texts."""
BODY_WORDS = frozenset({"CHEST", "THORAX"})


@dataclass(frozen=True, slots=True)
class MaskRegion:
    """A rectangle of an image, as shares of its width and height, 0 to 1."""

    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BurnedInPolicy:
    """What becomes of an image that may have text burned into its pixels.

    refuse: it is left out, unless its header denies burned-in annotation. mask: `regions` of every image are painted over.
    pass: it is exported as it is.
    """

    action: Literal["refuse", "mask", "pass"] = "refuse"
    regions: Sequence[MaskRegion] = ()


class RadiographDeidentifier:
    """`pipeline.export.Deidentifier`."""

    def __init__(self, policy: BurnedInPolicy) -> None:
        self._policy = policy

    def deidentify(self, content: bytes, key: bytes) -> bytes:
        """Return the de-identified file. NotExportable with the reason, which quotes nothing of the file."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # pydicom's warnings quote the value
                source = dcmread(BytesIO(content), stop_before_pixels=True)
                self._require_exportable(source)
                _, values = stored_values.read(content)
                return self._write_file(source, values, key)
        except NotExportable:
            raise
        except PixelsUnreadable as error:
            raise NotExportable(str(error)) from error
        except Exception as error:  # of any type: a damaged header; its text may quote a value
            raise NotExportable(f"the file cannot be read: {type(error).__name__}") from None

    def _require_exportable(self, source: Dataset) -> None:
        if source.SOPClassUID not in EXPORTED_CLASSES:
            raise NotExportable("the SOP class is not CR or DX")
        if source.get("SamplesPerPixel") != 1:
            raise NotExportable("the image is in colour")
        if self._policy.action == "refuse" and _may_have_text(source):
            raise NotExportable("text may be burned into the pixels")

    def _write_file(self, source: Dataset, values: stored_values.StoredValues, key: bytes) -> bytes:
        target = Dataset()
        _keep_values(source, target)
        _set_identity(source, target, key)
        self._set_pixels(source, target, values)
        _declare_method(target, is_masked=self._policy.action == "mask")
        target.file_meta = _build_file_meta(target)
        stream = BytesIO()
        dcmwrite(stream, target, enforce_file_format=True)
        return stream.getvalue()

    def _set_pixels(self, source: Dataset, target: Dataset, values: stored_values.StoredValues) -> None:
        """Write the stored values, uncompressed, without what stands in unused bits."""
        signed = bool(source.PixelRepresentation)
        bits = 8 if values.dtype.itemsize == 1 else 16
        pixels = np.ascontiguousarray(values, dtype=f"<{'i' if signed else 'u'}{bits // 8}")
        if self._policy.action == "mask":
            pixels = _paint_regions(pixels, self._policy.regions)
            target.BurnedInAnnotation = "NO"
        elif str(source.get("BurnedInAnnotation", "")) in ("YES", "NO"):
            target.BurnedInAnnotation = str(source.BurnedInAnnotation)
        target.BitsAllocated, target.HighBit = bits, int(target.BitsStored) - 1
        content = pixels.tobytes()
        target.PixelData = content + b"\0" * (len(content) % 2)
        target["PixelData"].VR = "OB" if bits == 8 else "OW"


def _may_have_text(source: Dataset) -> bool:
    """Tell whether the header admits burned-in annotation, or is silent on an image that is none of a detector."""
    stated = str(source.get("BurnedInAnnotation", "")).strip().upper()
    is_derived = "ConversionType" in source or "SECONDARY" in (str(value).upper() for value in source.get("ImageType") or ())
    return stated == "YES" or (stated != "NO" and is_derived)


def _keep_values(source: Dataset, target: Dataset) -> None:
    identity = _list_identity_words(source)
    for keyword in attributes.KEPT:
        if keyword in source and _is_clean(source, keyword, identity):
            target[keyword] = source[keyword]
    for keyword in attributes.LOOKUP_TABLES:
        if items := [_copy_lookup_table(item) for item in source.get(keyword) or ()]:
            setattr(target, keyword, items)
    if age := limit_age(str(source.get("PatientAge", "")).strip()):
        target.PatientAge = age


def _is_clean(source: Dataset, keyword: str, identity: frozenset[str]) -> bool:
    """Tell whether an element has the representation of the dictionary, values of it, and no word of the patient's identity."""
    element = source[keyword]
    if element.VR not in dictionary_VR(keyword).split(" or "):
        return False
    values = element.value if element.VM > 1 else [element.value]
    if element.VR == "CS" and not all(CODE_STRING.fullmatch(str(value or "").strip()) for value in values):
        return False
    return element.VR not in ("CS", "LO") or not identity & _list_words(map(str, values))


def _list_identity_words(source: Dataset) -> frozenset[str]:
    texts = (str(source.get(keyword, "")) for keyword in attributes.IDENTIFYING)
    return frozenset(word for word in _list_words(texts) if len(word) >= MIN_WORD) - BODY_WORDS


def _list_words(texts: Iterable[str]) -> set[str]:
    return {word for text in texts for word in WORD.findall(text.upper().replace("_", " "))}


def _copy_lookup_table(item: Dataset) -> Dataset:
    copy = Dataset()
    for keyword in attributes.LOOKUP_TABLE_ATTRIBUTES:
        if keyword in item:
            copy[keyword] = item[keyword]
    return copy


def _set_identity(source: Dataset, target: Dataset, key: bytes) -> None:
    target.SpecificCharacterSet = "ISO_IR 192"
    target.PatientID = target.PatientName = export_pseudonym(key)
    shift: timedelta = date_shift(key)
    for keyword in attributes.UIDS:
        setattr(target, keyword, export_uid(key, str(source[keyword].value)))
    for keyword in attributes.DATES:
        if keyword in source:
            setattr(target, keyword, shift_date(str(source[keyword].value or ""), shift))
    for keyword in attributes.EMPTY:
        setattr(target, keyword, "")


def _declare_method(target: Dataset, *, is_masked: bool) -> None:
    """State what was done: PS3.15 section E.1.1, PS3.3 section C.7.1.1."""
    target.PatientIdentityRemoved = "YES"
    target.LongitudinalTemporalInformationModified = "MODIFIED"
    target.DeidentificationMethod = METHOD
    codes = [attributes.BASIC_PROFILE, attributes.MODIFIED_DATES, attributes.PATIENT_CHARACTERISTICS]
    target.DeidentificationMethodCodeSequence = [
        _build_code(value, meaning) for value, meaning in (*codes, *([attributes.CLEAN_PIXEL_DATA] if is_masked else ()))
    ]


def _build_code(value: str, meaning: str) -> Dataset:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, "DCM", meaning
    return code


def _build_file_meta(target: Dataset) -> FileMetaDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = UID(target.SOPClassUID), UID(target.SOPInstanceUID)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID, meta.ImplementationVersionName = UID(IMPLEMENTATION_CLASS_UID), IMPLEMENTATION_VERSION_NAME
    return meta


def _paint_regions(pixels: np.ndarray[Any, Any], regions: Sequence[MaskRegion]) -> np.ndarray[Any, Any]:
    """Return the pixels with every region painted in the smallest value of the image."""
    painted, (height, width) = pixels.copy(), pixels.shape
    for region in regions:
        rows = slice(int(region.top * height), int(np.ceil(region.bottom * height)))
        painted[rows, int(region.left * width) : int(np.ceil(region.right * width))] = pixels.min()
    return painted
