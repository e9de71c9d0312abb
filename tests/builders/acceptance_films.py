"""Small chest films to send: DX files with noise as pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, generate_uid

SIZE = 256


def write_film(path: Path, number: int) -> str:
    """Write one frontal chest film, in a new study; return its StudyInstanceUID."""
    film = FileDataset(str(path), {}, file_meta=FileMetaDataset(), preamble=b"\0" * 128)
    film.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    film.SOPClassUID = film.file_meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    film.SOPInstanceUID = film.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    film.StudyInstanceUID, film.SeriesInstanceUID = generate_uid(), generate_uid()
    film.PatientName, film.PatientID = f"TEST^{number}", f"T{number}"
    film.PatientBirthDate, film.PatientSex = "19700101", "O"
    film.StudyDate, film.StudyTime, film.AccessionNumber, film.StudyID = "20250101", "120000", f"A{number}", str(number)
    film.ReferringPhysicianName, film.Manufacturer = "", "phantom"
    film.Modality, film.BodyPartExamined, film.ViewPosition = "DX", "CHEST", "PA"
    film.PresentationIntentType = "FOR PRESENTATION"
    film.ImageType = ["ORIGINAL", "PRIMARY", ""]
    film.SeriesNumber, film.InstanceNumber = 1, 1
    film.PatientOrientation = ["L", "F"]
    _add_pixels(film, number)
    film.save_as(path, enforce_file_format=True)
    return str(film.StudyInstanceUID)


def _add_pixels(film: Dataset, number: int) -> None:
    film.Rows = film.Columns = SIZE
    film.SamplesPerPixel, film.PhotometricInterpretation = 1, "MONOCHROME2"
    film.BitsAllocated, film.BitsStored, film.HighBit, film.PixelRepresentation = 16, 12, 11, 0
    film.RescaleSlope, film.RescaleIntercept, film.RescaleType = "1", "0", "US"
    film.PresentationLUTShape = "IDENTITY"
    film.PixelData = np.random.default_rng(number).integers(0, 4096, (SIZE, SIZE), dtype=np.uint16).tobytes()
