"""The ground truth of a study: kept beside the films, never in a DICOM file."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GroundTruth:
    """The patient of a study and the findings that the study shows."""

    patient: str
    findings: frozenset[str]
