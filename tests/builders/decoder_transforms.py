"""Decoder transforms that crash or hang a decoder process; picklable, as those of a scorer."""

from __future__ import annotations

import os
import signal
import time

from adapters.ipc.decoded_image import DeferredImage
from pipeline.domain import Image

DARK = 0.1
"""Mean grey below which an image is fatal."""


def crash_on_dark(image: Image | DeferredImage) -> Image:
    """Crash as a codec that writes past its buffer."""
    if image[:].mean() < DARK:
        os.kill(os.getpid(), signal.SIGSEGV)
    return image[:]


def hang_on_dark(image: Image | DeferredImage) -> Image:
    """Hang as a codec in an endless loop."""
    if image[:].mean() < DARK:
        time.sleep(600)
    return image[:]
