"""The cases of an experiment: patient, acquisition, findings. One row per image, one image per study."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

PRESENT, ABSENT, UNKNOWN = 1, 0, -1
"""Values of `Cases.labels`. UNKNOWN is excluded from every loss and every measure."""


@dataclass(frozen=True)
class Cases:
    """N images in a fixed order.

    `weight` is the number of archive images that a case represents: 1 if the cases are the archive itself, less for a finding that
    was oversampled. Prevalences are weighted means.
    """

    key: npt.NDArray[np.str_]  # [N] unique names
    patient: npt.NDArray[np.str_]  # [N]
    labels: npt.NDArray[np.int8]  # [N, F] PRESENT, ABSENT or UNKNOWN
    age: npt.NDArray[np.float32]  # [N] years; NaN where unknown
    sex: npt.NDArray[np.str_]  # [N] "M", "F" or ""
    view: npt.NDArray[np.str_]  # [N] "PA", "AP" or ""
    pixel_sha256: npt.NDArray[np.str_]  # [N] of the pixels given to the encoder
    weight: npt.NDArray[np.float32]  # [N]
    findings: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.key)

    @property
    def normal(self) -> npt.NDArray[np.bool_]:
        """[N]: True if every finding is labelled absent."""
        return np.asarray((self.labels == ABSENT).all(axis=1))


@dataclass(frozen=True)
class Split:
    """Row numbers of Cases: `pool` is for training, `test` for scoring alone. No patient and no image is in both.

    `duplicates`: left out of the pool, because an image of the test set has the same pixels.
    """

    pool: npt.NDArray[np.intp]
    test: npt.NDArray[np.intp]
    duplicates: npt.NDArray[np.intp] = field(default_factory=lambda: np.zeros(0, dtype=np.intp))
