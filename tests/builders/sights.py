"""Picklable decoder transforms that crash or hang the decoding process."""

from __future__ import annotations

import os
import signal
import time

from adapters.ipc.decoded_image import DeferredImage
from pipeline.domain import Image

DARK = 0.1
"""Mean grey below which these transforms crash or hang."""


def crash_on_dark(image: Image | DeferredImage) -> Image:
    """Crash as a codec that overruns its buffer."""
    if image[:].mean() < DARK:
        os.kill(os.getpid(), signal.SIGSEGV)
    return image[:]


def hang_on_dark(image: Image | DeferredImage) -> Image:
    """Hang as a codec in an endless loop."""
    if image[:].mean() < DARK:
        time.sleep(600)
    return image[:]
