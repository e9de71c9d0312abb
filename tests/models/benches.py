"""Constructed cases and benches: features drawn around known directions, so that the right answer is known."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from models.experiment.cases import Cases

FINDINGS = ("Effusion", "Mass", "Hernia", "Edema")


def cases(labels: npt.NDArray[np.int8], *, films_per_patient: int = 1, weight: npt.NDArray[np.float32] | None = None) -> Cases:
    """Cases of these labels [N, F]; everything else follows from the row's number."""
    number = np.arange(len(labels))
    return Cases(
        key=np.array([f"film-{row:05d}" for row in number]),
        patient=np.array([f"patient-{row // films_per_patient:05d}" for row in number]),
        labels=labels,
        age=(30 + number % 50).astype(np.float32),
        sex=np.where(number % 2, "M", "F"),
        view=np.where(number % 3, "PA", "AP"),
        pixel_sha256=np.array([f"{row:064x}" for row in number]),
        weight=np.ones(len(labels), dtype=np.float32) if weight is None else weight,
        findings=FINDINGS[: labels.shape[1]],
    )


def random_labels(films: int, rates: list[float], *, seed: int, unknown: float = 0.0) -> npt.NDArray[np.int8]:
    rng = np.random.default_rng(seed)
    labels = (rng.random((films, len(rates))) < rates).astype(np.int8)
    labels[rng.random(labels.shape) < unknown] = -1
    return labels
