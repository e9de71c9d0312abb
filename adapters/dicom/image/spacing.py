"""The distance of two pixels, for a ruler (PS3.3 10.7.1.3, C.8.11.4)."""

from __future__ import annotations

import warnings
from io import BytesIO

from pydicom import dcmread

from adapters.dicom.image.element_values import get_decimals
from pipeline.domain import PixelSpacing

CALIBRATED, AT_DETECTOR = "PixelSpacing", "ImagerPixelSpacing"
"""In the patient, where the header has it; else at the front of the detector, where the patient is magnified."""


def read_pixel_spacing(content: bytes) -> PixelSpacing | None:
    """Return the spacing that the header of a DICOM file states; None where it states none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom's warnings quote the value
            dataset = dcmread(BytesIO(content), stop_before_pixels=True, specific_tags=[CALIBRATED, AT_DETECTOR], force=True)
    except Exception:  # pydicom raises exceptions of any type on invalid bytes; a film without a ruler is still a film
        return None
    for keyword in (CALIBRATED, AT_DETECTOR):
        values = get_decimals(dataset, keyword)
        if len(values) == 2 and values[0] and values[1] and min(values[0], values[1]) > 0:
            return PixelSpacing(values[0], values[1], at_detector=keyword == AT_DETECTOR)
    return None
