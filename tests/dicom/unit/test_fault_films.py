"""Films that have failed in hospitals, read as they must be: by the listener's scan and by the reader of images."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from adapters.dicom.image import part10
from adapters.dicom.image.pixels import DicomImageReader
from pipeline.domain import Image
from pipeline.errors import PixelsUnreadable
from tests.builders import peers
from tests.builders.fakes.images import FakeImageStore, stored_instance

EXACT, EIGHT_BITS = 1e-5, 1.01 / 255


def image_of(name: str) -> Image:
    """The image of a film, received and stored as the listener does."""
    body, syntax = part10.split_file(peers.shared(f"faults/{name}.dcm").read_bytes())
    header = part10.read_header(body, syntax)
    assert (header.has_pixels, header.view_position, header.rows) == (True, "PA", 96)
    uids = {"sop_class_uid": header.sop_class_uid, "sop_instance_uid": header.sop_instance_uid}
    store = FakeImageStore()
    return DicomImageReader(store).read(stored_instance(store, part10.file_bytes(body, transfer_syntax_uid=syntax, **uids)))


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [
        ("highbit_left", EXACT),
        ("undef_native", EXACT),
        ("palette_color", EIGHT_BITS),
        ("ybr422_native", EIGHT_BITS),
        ("voilut_empty", EXACT),
        ("modlut_empty", EXACT),
        ("slope_zero", EXACT),
        ("extended_offset_table", EXACT),
        ("icon_short", EXACT),
        ("vr_unknown", EXACT),
        ("spacing_comma", EXACT),
        ("spacing_one_value", EXACT),
        ("dup_jll", EXACT),
        ("dup_impl", EXACT),
    ],
)
def test_a_film_with_a_fault_that_can_be_read_around_gives_the_image_of_the_sound_film(name: str, tolerance: float) -> None:
    assert image_of(name) == pytest.approx(image_of("dup_src"), abs=tolerance)


@pytest.mark.parametrize("name", ["excess_native", "excess_j2k"])
def test_two_frames_are_refused(name: str) -> None:
    with pytest.raises(PixelsUnreadable, match=r"one frame|2 frames"):
        image_of(name)


def test_tables_of_either_width_give_one_image() -> None:
    assert image_of("voilut_12in16") == pytest.approx(image_of("voilut_8packed"), abs=EIGHT_BITS)
    assert image_of("voilut_12in16").max() > 0.9


@pytest.mark.parametrize("name", ["window_comma", "pad_us_signed"])
def test_the_image_has_the_contrast_of_the_sound_film(name: str) -> None:
    sound, found = image_of("dup_src"), image_of(name)
    visible = found > 0
    assert np.corrcoef(ranks(sound[visible]), ranks(found[visible]))[0, 1] > 0.99
    assert np.percentile(found[visible], 98) - np.percentile(found[visible], 2) > 0.7


def ranks(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.argsort(np.argsort(values, kind="stable"), kind="stable")
