"""Errors of `models` as errors of the pipeline."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from models import errors as models_errors
from pipeline import errors

_TRANSLATIONS: tuple[tuple[type[models_errors.ModelsError], type[errors.RadclipdError]], ...] = (
    (models_errors.CheckpointMissing, errors.NoWeights),
    (models_errors.CheckpointUnwritable, errors.OutOfResources),
    (models_errors.CheckpointCorrupt, errors.WeightsCorrupt),
    (models_errors.CheckpointIncompatible, errors.WeightsIncompatible),
    (models_errors.GoldenMismatch, errors.WeightsIncompatible),
    (models_errors.UnknownArchitecture, errors.PermanentError),
    (models_errors.CannotPartition, errors.PermanentError),
    (models_errors.NothingToLearn, errors.PermanentError),
    (models_errors.SplitLeaks, errors.PermanentError),
    (models_errors.SplitUnusable, errors.PermanentError),
    (models_errors.UnknownMethod, errors.PermanentError),
    (models_errors.FetchFailed, errors.TransientError),
    (models_errors.ImageUnusable, errors.PixelsUnreadable),
    (models_errors.ModelsError, errors.WeightsRejected),
)


@contextmanager
def translate_model_errors() -> Iterator[None]:
    """Raise every `ModelsError` as its pipeline error, with the same message and hint."""
    try:
        yield
    except models_errors.ModelsError as error:
        translated = next(target for source, target in _TRANSLATIONS if isinstance(error, source))
        raise translated(str(error), hint=error.hint) from error
