"""What can be wrong with weights, checkpoints and images, each with its remedy. The adapters say it in the pipeline's words.

ModelsError
├── CheckpointMissing      no such file or folder
├── CheckpointCorrupt      the bytes are not what the card says, or no checkpoint at all
├── CheckpointUnsafe       a pickle that would run code
├── CheckpointUnwritable   no room, or no right, to write
├── WeightsIncompatible    sound bytes that belong to another architecture
├── GoldenMismatch         weights that load and yet compute something else
├── UnknownArchitecture    no architecture of that name, or one that cannot be served
├── CannotPartition        an image encoder that cannot be unfrozen in part, or not in that many blocks
├── NothingToLearn         labels that hold no finding with both present and absent cases
├── FetchFailed            the weights could not be downloaded now
├── ImageUnusable          pixels that are no image
├── SplitLeaks             a patient or a film on both sides of an experiment
├── SplitUnusable          a split with a side empty, or films on no side
└── UnknownMethod          no method of that name on the ladder
"""

from __future__ import annotations


class ModelsError(Exception):
    """An error with its remedy. `str(error)` is one line; `hint` may be empty."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class CheckpointMissing(ModelsError):
    """A checkpoint, or a part of it, is not there."""


class CheckpointCorrupt(ModelsError):
    """The bytes are not what the card says, or not a checkpoint."""


class CheckpointUnsafe(ModelsError):
    """Reading the file would mean to run code that it carries."""


class CheckpointUnwritable(ModelsError):
    """The checkpoint could not be written."""


class CheckpointIncompatible(ModelsError):
    """The weights do not belong to this architecture, or this release."""


class GoldenMismatch(ModelsError):
    """The loaded encoder does not give the embeddings that its card recorded."""


class UnknownArchitecture(ModelsError):
    """No architecture of this name or file, or one that radclipd cannot serve."""


class CannotPartition(ModelsError):
    """The image encoder is no sequence of blocks, or has fewer than asked for."""


class NothingToLearn(ModelsError):
    """No finding has both present and absent cases."""


class FetchFailed(ModelsError):
    """The weights could not be downloaded now."""


class ImageUnusable(ModelsError):
    """The array is not a finite, non-empty float image [H, W]."""


class SplitLeaks(ModelsError):
    """The pool that is learnt from and the test set share patients or films: no number measured on them means anything."""


class SplitUnusable(ModelsError):
    """A split that leaves a side empty, or a film on neither side."""


class UnknownMethod(ModelsError):
    """The ladder of methods has no rung of this name."""
