"""The spacing of pixels for a ruler."""

from __future__ import annotations

import pytest

from adapters.dicom.image.spacing import read_pixel_spacing
from pipeline.domain import PixelSpacing
from tests.builders.dicom_files import dx, file_of


@pytest.mark.parametrize(
    ("elements", "wanted"),
    [
        ({"ImagerPixelSpacing": [0.14, 0.15]}, PixelSpacing(0.14, 0.15, at_detector=True)),
        ({"PixelSpacing": [0.2, 0.2]}, PixelSpacing(0.2, 0.2, at_detector=False)),
        ({"ImagerPixelSpacing": [0, 0]}, None),
        ({"ImagerPixelSpacing": [0.14]}, None),
        ({"ImagerPixelSpacing": None}, None),
    ],
)
def test_the_spacing_in_the_patient_comes_before_that_at_the_detector(
    elements: dict[str, object], wanted: PixelSpacing | None
) -> None:
    assert read_pixel_spacing(file_of(dx(**elements))) == wanted  # type: ignore[arg-type]  # elements of the data set


def test_a_file_that_is_no_dicom_file_has_no_spacing() -> None:
    assert read_pixel_spacing(b"no DICOM file") is None
