"""Small data sets and DICOM files."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.sequence import Sequence
from pydicom.uid import Comprehensive3DSRStorage, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, generate_uid

from adapters.dicom.image import part10
from pipeline import rules

EXPLICIT = str(ExplicitVRLittleEndian)
COMPREHENSIVE_3D_SR = str(Comprehensive3DSRStorage)


def gradient(rows: int, columns: int, bits: int) -> np.ndarray[Any, np.dtype[np.uint16]]:
    """Stored values uint16 [rows, columns] that rise from 0 to 2^bits - 1, in both directions."""
    ramp = np.add.outer(np.arange(rows), np.arange(columns)) / max(1, rows + columns - 2)
    return np.asarray(ramp * (2**bits - 1), dtype=np.uint16)


def instance(sop_class_uid: str, **elements: Any) -> Dataset:
    """A data set with UIDs, patient and study only."""
    dataset = Dataset()
    dataset.SOPClassUID = sop_class_uid
    dataset.SOPInstanceUID = generate_uid()
    dataset.StudyInstanceUID = generate_uid()
    dataset.SeriesInstanceUID = generate_uid()
    dataset.PatientName = "PHANTOM^TEST"
    dataset.PatientID = "T-1"
    dataset.PatientBirthDate = "19500101"
    dataset.PatientSex = "F"
    dataset.StudyDate, dataset.StudyTime = "20260102", "101500"
    dataset.AccessionNumber, dataset.StudyID, dataset.ReferringPhysicianName = "A1", "1", ""
    dataset.SeriesNumber, dataset.InstanceNumber = 1, 1
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return dataset


def dx(*, rows: int = 40, columns: int = 32, bits: int = 12, photometric: str = "MONOCHROME2", **elements: Any) -> Dataset:
    """A frontal chest radiograph, DX for presentation, with a gradient as pixel data."""
    dataset = instance(rules.DIGITAL_X_RAY_FOR_PRESENTATION)
    dataset.Modality = "DX"
    dataset.PresentationIntentType = "FOR PRESENTATION"
    dataset.BodyPartExamined, dataset.ViewPosition = "CHEST", "PA"
    dataset.PatientOrientation = ["L", "F"]
    dataset.ImagerPixelSpacing = [0.14, 0.14]
    dataset.ImageType = ["ORIGINAL", "PRIMARY"]
    dataset.Manufacturer, dataset.ManufacturerModelName = "PHANTOM", "TEST"
    pixels(dataset, gradient(rows, columns, bits), bits=bits, photometric=photometric)
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return dataset


def pixels(dataset: Dataset, values: np.ndarray[Any, Any], *, bits: int, photometric: str = "MONOCHROME2") -> None:
    """Set the pixel data: stored values [rows, columns] of `bits` stored bits, 8 or 16 allocated."""
    allocated = 8 if bits <= 8 else 16
    dataset.Rows, dataset.Columns = values.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, photometric
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = allocated, bits, bits - 1
    dataset.PixelRepresentation = 0
    dataset.PixelData = values.astype(f"<u{allocated // 8}").tobytes()
    if len(dataset.PixelData) % 2:
        dataset.PixelData += b"\0"
    dataset["PixelData"].VR = "OW"


def lookup_item(entries: Any, *, bits: int, first: int = 0, count: int | None = None, packed: bool = False) -> Dataset:
    """An item of a Modality or VOI LUT sequence, in little endian; `packed`: two entries of 8 bits in each word."""
    item, table = Dataset(), np.asarray(entries)
    item.add_new("LUTDescriptor", "US", [len(table) % 65536 if count is None else count, first % 65536, bits])
    content = table.astype("u1" if packed else "<u2").tobytes()
    item.add_new("LUTData", "OW", content + b"\0" * (len(content) % 2))
    return item


def sr(**elements: Any) -> Dataset:
    """A Comprehensive 3D SR with a title only."""
    dataset = instance(COMPREHENSIVE_3D_SR, Modality="SR", CompletionFlag="COMPLETE", VerificationFlag="UNVERIFIED")
    title = Dataset()
    title.CodeValue, title.CodingSchemeDesignator, title.CodeMeaning = "126000", "DCM", "Imaging Measurement Report"
    dataset.ValueType, dataset.ConceptNameCodeSequence = "CONTAINER", Sequence([title])
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return dataset


def encoded(dataset: Dataset, transfer_syntax_uid: str = EXPLICIT) -> bytes:
    """The data set in this (uncompressed) transfer syntax, without file meta."""
    stream = DicomBytesIO()
    stream.is_little_endian = transfer_syntax_uid != ExplicitVRBigEndian
    stream.is_implicit_VR = transfer_syntax_uid == ImplicitVRLittleEndian
    write_dataset(stream, dataset)
    return stream.getvalue()


def file_of(dataset: Dataset, transfer_syntax_uid: str = EXPLICIT) -> bytes:
    """The data set as a DICOM file, written by the product."""
    return part10.file_bytes(
        encoded(dataset, transfer_syntax_uid),
        sop_class_uid=dataset.SOPClassUID,
        sop_instance_uid=dataset.SOPInstanceUID,
        transfer_syntax_uid=transfer_syntax_uid,
    )


def stream_of(dataset: Dataset) -> BytesIO:
    """The DICOM file as a stream."""
    return BytesIO(file_of(dataset))
