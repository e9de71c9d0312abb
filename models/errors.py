"""Errors of weights, checkpoints and images, each with its remedy. The adapters translate them to the pipeline's errors.

ModelsError
├── CheckpointMissing      a missing file or folder
├── CheckpointCorrupt      bytes that differ from the card, or no checkpoint
├── CheckpointUnsafe       a pickle that would run code
├── CheckpointUnwritable   no space or no permission to write
├── CheckpointIncompatible sound bytes that belong to another architecture
├── GoldenMismatch         weights that load but compute other embeddings
├── UnknownArchitecture    an unknown architecture, or one that cannot be served
├── CannotPartition        an image encoder that cannot be partially unfrozen, or has fewer blocks
├── NothingToLearn         labels without a finding that has present and absent cases
├── FetchFailed            a download that failed
├── ImageUnusable          pixels that are no image
├── SplitLeaks             a patient or an image on both sides of an experiment
├── SplitUnusable          a split with an empty side, or images on no side
└── UnknownMethod          an unknown method of the ladder
"""

from __future__ import annotations


class ModelsError(Exception):
    """An error with its remedy. `str(error)` is one line; `hint` may be empty."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class CheckpointMissing(ModelsError):
    """A checkpoint, or a part of it, is missing."""


class CheckpointCorrupt(ModelsError):
    """The bytes differ from the card, or are no checkpoint."""


class CheckpointUnsafe(ModelsError):
    """Reading the file would run code from it."""


class CheckpointUnwritable(ModelsError):
    """The checkpoint could not be written."""


class CheckpointIncompatible(ModelsError):
    """The weights do not fit this architecture, or this release."""


class GoldenMismatch(ModelsError):
    """The loaded encoder does not reproduce the golden embeddings of its card."""


class UnknownArchitecture(ModelsError):
    """No architecture of this name or file, or one that radclipd cannot serve."""


class CannotPartition(ModelsError):
    """The image encoder is no sequence of blocks, or has fewer than requested."""


class NothingToLearn(ModelsError):
    """No finding has both present and absent cases."""


class FetchFailed(ModelsError):
    """The weights could not be downloaded."""


class ImageUnusable(ModelsError):
    """The array is not a finite, non-empty float image [H, W]."""


class SplitLeaks(ModelsError):
    """Training pool and test set share patients or images, so that measures on the test set are invalid."""


class SplitUnusable(ModelsError):
    """A split with an empty side, or an image on neither side."""


class UnknownMethod(ModelsError):
    """The ladder of methods has no rung of this name."""
