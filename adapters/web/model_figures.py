"""The figures of the model page: the serving version on labels that it has not learnt from, and the learning curve."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pipeline import version_figures
from pipeline.consensus import LabelPolicy
from pipeline.domain import FINDINGS, Label, LabelExposure, ModelVersion, VersionState
from pipeline.ports.desk import DeskCatalog, DeskTransaction
from pipeline.rules import MONITORING
from pipeline.version_figures import CurvePoint, Projection, ReliabilityBin, VersionAuc

FRESH_SECONDS = 60.0
"""Time for which figures are shown again: a page counts the labels of the archive."""
MAX_STUDIES = 4000
"""The newest labelled studies that are measured."""
CHUNK = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFigures:
    """Of the serving version; empty where none serves."""

    samples: Mapping[str, Mapping[str, VersionAuc]] = field(default_factory=dict)  # sample -> finding -> AUC
    means: Mapping[str, float | None] = field(default_factory=dict)  # sample -> mean AUC
    reliability: Mapping[str, Sequence[ReliabilityBin]] = field(default_factory=dict)  # finding, "": all
    points: Sequence[CurvePoint] = ()
    projection: Projection | None = None


class ModelFiguresCache:
    """The figures, computed once for all who look at them. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._read_at, self._serving = 0.0, -1
        self._figures = ModelFigures()

    def read(self, catalog: DeskCatalog, policy: LabelPolicy) -> ModelFigures:
        """Return the figures of the version that serves now, at most FRESH_SECONDS old."""
        with self._lock, catalog.read() as tx:
            versions = tx.versions.all()
            serving = next((version for version in versions if version.state is VersionState.SERVING), None)
            number = serving.number if serving else -1
            if number != self._serving or time.monotonic() - self._read_at > FRESH_SECONDS:
                self._figures = _compute_figures(serving, versions, tx, policy)
                self._serving, self._read_at = number, time.monotonic()
            return self._figures


def _compute_figures(
    serving: ModelVersion | None, versions: Sequence[ModelVersion], tx: DeskTransaction, policy: LabelPolicy
) -> ModelFigures:
    points = version_figures.list_curve_points(versions)
    projection = version_figures.project_curve(points)
    if serving is None:
        return ModelFigures(points=points, projection=projection)
    labels = tx.labels.all()
    patients = tx.studies.patient_keys(sorted({label.study_instance_uid for label in labels}))
    unseen = version_figures.select_unseen_labels(labels, serving, patients)
    scores, probabilities = _read_predictions(unseen, serving.number, tx)
    by_sample = version_figures.split_samples(unseen)
    samples = {sample: version_figures.measure_sample(given, scores, policy) for sample, given in by_sample.items()}
    blind = sorted({label.id: label for kind in (LabelExposure.NONE, MONITORING) for label in by_sample[kind]}.items())
    return ModelFigures(
        samples=samples,
        means={sample: version_figures.average_auc(found) for sample, found in samples.items()},
        reliability=version_figures.measure_reliability([label for _, label in blind], probabilities, policy),
        points=points,
        projection=projection,
    )


def _read_predictions(
    labels: Sequence[Label], version: int, tx: DeskTransaction
) -> tuple[dict[tuple[str, str], float], dict[tuple[str, str], float]]:
    """Return scores and probabilities of the labelled studies by study and finding."""
    newest = list(dict.fromkeys(label.study_instance_uid for label in reversed(labels)))[:MAX_STUDIES]
    scores: dict[tuple[str, str], float] = {}
    probabilities: dict[tuple[str, str], float] = {}
    columns = ["study_instance_uid", "finding", "score", "probability"]
    for start in range(0, len(newest), CHUNK):
        where = {"version": version, "study_instance_uid": newest[start : start + CHUNK]}
        for row in tx.views.select("v_predictions", columns, where=where, limit=CHUNK * len(FINDINGS)):
            key = row["study_instance_uid"], row["finding"]
            scores[key] = row["score"]
            if row["probability"] is not None:
                probabilities[key] = row["probability"]
    return scores, probabilities
