"""Pictures of films: PNG and JPEG files of any mode, read losslessly and without invented grey levels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image as PillowImage
from PIL import UnidentifiedImageError

from adapters.simulator.raster import Field
from pipeline.errors import PermanentError

PICTURE_SUFFIXES = {".png", ".jpg", ".jpeg"}

Grey = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]


@dataclass(frozen=True, slots=True)
class Picture:
    """Grey levels of the file: uint8 or uint16 [H, W], bone bright. Colour is converted to luminance, alpha is dropped."""

    stored_values: Grey

    @property
    def bits(self) -> int:
        """Bits per pixel: 8 or 16."""
        return 8 * self.stored_values.itemsize

    @property
    def brightness(self) -> Field:
        """Return float32 [H, W] in 0..1."""
        return np.asarray(self.stored_values, dtype=np.float32) / np.float32((1 << self.bits) - 1)

    def shrunk_to(self, size: int) -> Picture:
        """Return the picture reduced to a longer edge of `size` pixels, antialiased, never enlarged; the bits are kept."""
        height, width = self.stored_values.shape
        if max(height, width) <= size:
            return self
        edges = max(1, round(width * size / max(height, width))), max(1, round(height * size / max(height, width)))
        levels = PillowImage.fromarray(np.asarray(self.stored_values, dtype=np.float32)).resize(
            edges, PillowImage.Resampling.BICUBIC
        )
        return Picture(np.clip(np.rint(np.asarray(levels)), 0, (1 << self.bits) - 1).astype(self.stored_values.dtype))


def read_picture(path: Path) -> Picture:
    """Read a picture: grey of 1, 8 or 16 bits, palette, colour, with or without alpha. PermanentError for any other file."""
    try:
        with PillowImage.open(path) as opened:
            if opened.mode.startswith("I"):
                return Picture(np.clip(np.asarray(opened), 0, 65535).astype(np.uint16))
            return Picture(np.asarray(opened.convert("L"), dtype=np.uint8))
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, PillowImage.DecompressionBombError) as error:
        raise PermanentError(f"{path.name} is not a picture that can be read", hint="replace the file, or take it away") from error
