"""What an experiment knows of its films: who, how taken, which findings. One row a film, one film a study."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

PRESENT, ABSENT, UNKNOWN = 1, 0, -1
"""Values of `Cases.labels`. UNKNOWN takes part in nothing: no loss, no measure."""


@dataclass(frozen=True)
class Cases:
    """N films in one order.

    `weight` says how many films of the archive each one stands for: 1 where the cases are the archive itself, less for a finding
    of which more were taken than chance would have given. Prevalences are weighted means.
    """

    key: npt.NDArray[np.str_]  # [N] names, each once
    patient: npt.NDArray[np.str_]  # [N]
    labels: npt.NDArray[np.int8]  # [N, F] PRESENT, ABSENT or UNKNOWN
    age: npt.NDArray[np.float32]  # [N] years; NaN where unknown
    sex: npt.NDArray[np.str_]  # [N] "M", "F" or ""
    view: npt.NDArray[np.str_]  # [N] "PA", "AP" or ""
    pixel_sha256: npt.NDArray[np.str_]  # [N] of the pixels that the encoder is given
    weight: npt.NDArray[np.float32]  # [N]
    findings: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.key)

    @property
    def normal(self) -> npt.NDArray[np.bool_]:
        """[N]: every finding is known to be absent."""
        return np.asarray((self.labels == ABSENT).all(axis=1))


@dataclass(frozen=True)
class Split:
    """Row numbers of Cases: `pool` may be learnt from, `test` is only ever scored. No patient and no film is in both."""

    pool: npt.NDArray[np.intp]
    test: npt.NDArray[np.intp]
