"""What a scorer might look at, for processes that decode: picklable, and some of it fatal."""

from __future__ import annotations

import os
import signal
import time

from adapters.ipc.decoded_image import DeferredImage
from pipeline.domain import Image

DARK = 0.1
"""Mean grey below which a film is fatal to those that it may be fatal to."""


def crash_on_dark(image: Image | DeferredImage) -> Image:
    """As a codec that runs over the end of its buffer."""
    if image[:].mean() < DARK:
        os.kill(os.getpid(), signal.SIGSEGV)
    return image[:]


def hang_on_dark(image: Image | DeferredImage) -> Image:
    """As a codec that never ends."""
    if image[:].mean() < DARK:
        time.sleep(600)
    return image[:]
