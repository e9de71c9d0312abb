"""The Image Pixel module (PS3.3 C.7.6.3) of a data set, checked: what its stored values must be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from pydicom.dataset import Dataset

from adapters.dicom.image.element_values import get_integer, get_text
from pipeline.errors import PixelsUnreadable

MAX_SIDE, MAX_SAMPLES = 30_000, 100_000_000
"""Far above the largest detector: anything larger is a wrong header or a decompression bomb."""
BITS_ALLOCATED = (8, 16, 32)
SAMPLES = {
    **dict.fromkeys(("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR"), 1),
    **dict.fromkeys(("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT"), 3),
}
"""Photometric Interpretation -> samples a pixel, of those that can be read."""
_HEADER_HINT = "the header is wrong; see the sender"


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelAttributes:
    """What the header says of the stored values. Names as in PS3.3 C.7.6.3; `planar`: colours by plane, not by pixel."""

    rows: int
    columns: int
    samples_per_pixel: int
    photometric_interpretation: str
    planar: bool
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool

    @classmethod
    def from_dataset(cls, dataset: Dataset) -> Self:
        """Read and check. PixelsUnreadable where the header contradicts itself, or is not that of one image."""
        allocated = _require_integer(dataset, "BitsAllocated")
        stored = get_integer(dataset, "BitsStored") or allocated
        high_bit = get_integer(dataset, "HighBit")
        interpretation = get_text(dataset, "PhotometricInterpretation")
        attributes = cls(
            rows=_require_integer(dataset, "Rows"),
            columns=_require_integer(dataset, "Columns"),
            samples_per_pixel=get_integer(dataset, "SamplesPerPixel") or SAMPLES.get(interpretation, 1),
            photometric_interpretation=interpretation,
            planar=get_integer(dataset, "PlanarConfiguration") == 1,
            bits_allocated=allocated,
            bits_stored=stored,
            high_bit=stored - 1 if high_bit is None else high_bit,
            signed=get_integer(dataset, "PixelRepresentation") == 1,
        )
        attributes._check_size(get_integer(dataset, "NumberOfFrames") or 1)
        attributes._check_samples()
        return attributes

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the stored values of the one frame."""
        edges = (self.rows, self.columns)
        return edges if self.samples_per_pixel == 1 else (*edges, self.samples_per_pixel)

    @property
    def unused_low_bits(self) -> int:
        """Bits below the stored ones: samples need not be aligned to the right (PS3.5 8.1.1)."""
        return self.high_bit + 1 - self.bits_stored

    @property
    def frame_bytes(self) -> int:
        """Length of one uncompressed frame."""
        samples = self.rows * self.columns * self.samples_per_pixel
        if self.photometric_interpretation == "YBR_FULL_422":  # one Cb and one Cr for two pixels (PS3.3 C.7.6.3.1.2)
            samples = samples // 3 * 2
        return samples * self.bits_allocated // 8

    def _check_size(self, frames: int) -> None:
        rows, columns = self.rows, self.columns
        sides_fit = 0 < rows <= MAX_SIDE and 0 < columns <= MAX_SIDE
        if not (sides_fit and rows * columns * max(1, self.samples_per_pixel) <= MAX_SAMPLES):
            raise PixelsUnreadable(f"{rows} rows x {columns} columns is no radiograph", hint=_HEADER_HINT)
        if frames > 1:
            raise PixelsUnreadable(f"{frames} frames where one is expected", hint="send single-frame radiographs")

    def _check_samples(self) -> None:
        interpretation, samples = self.photometric_interpretation, self.samples_per_pixel
        if interpretation not in SAMPLES:
            raise PixelsUnreadable(
                f"Photometric Interpretation {interpretation[:16] or 'is missing'} is not one that can be read",
                hint=f"let the sender send one of {', '.join(SAMPLES)}",
            )
        if samples != SAMPLES[interpretation]:
            raise PixelsUnreadable(f"{samples} samples a pixel contradict {interpretation}", hint=_HEADER_HINT)
        if self.bits_allocated not in BITS_ALLOCATED:
            raise PixelsUnreadable(f"{self.bits_allocated} bits allocated are not 8, 16 or 32", hint=_HEADER_HINT)
        if not self.bits_stored <= self.high_bit + 1 <= self.bits_allocated:
            raise PixelsUnreadable(
                f"{self.bits_stored} bits stored below high bit {self.high_bit} do not fit {self.bits_allocated} bits allocated",
                hint=_HEADER_HINT,
            )
        if interpretation == "YBR_FULL_422" and self.columns % 2:
            raise PixelsUnreadable("YBR_FULL_422 has an even number of columns", hint=_HEADER_HINT)


def _require_integer(dataset: Dataset, keyword: str) -> int:
    number = get_integer(dataset, keyword)
    if number is None or number < 0:
        raise PixelsUnreadable(f"{keyword} is missing or unreadable", hint=_HEADER_HINT)
    return number
