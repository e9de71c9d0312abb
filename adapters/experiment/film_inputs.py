"""The model input of a film. No torch: processes that decode films import this module."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from adapters.ml.error_translation import translate_model_errors
from models.images.preprocess import Preprocess
from pipeline.domain import Image


def compute_model_input(preprocess: Preprocess, image: Image) -> npt.NDArray[np.float16]:
    """Return the model input before normalisation, float16 [S, S]. PixelsUnreadable."""
    with translate_model_errors():
        return preprocess.make_model_input_array(image).astype(np.float16)
