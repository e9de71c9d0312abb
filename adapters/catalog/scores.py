"""Scores of images and predictions of studies."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from sqlalchemy import Connection, Select, delete, insert, select

from adapters.catalog.chunks import chunks
from adapters.catalog.tables import image_scores, instances, predictions, series, studies
from pipeline.domain import FINDINGS, Decision, Prediction, Scores

STORED = np.dtype("<f4")


class SqlScoreRows:
    """ports.ScoreRows."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def image_scores(self, study_instance_uid: str, version: int) -> dict[str, Scores]:
        query = (
            select(instances.c.sop_instance_uid, image_scores.c.scores)
            .join(instances, image_scores.c.instance == instances.c.id)
            .join(series, instances.c.series == series.c.id)
            .join(studies, series.c.study == studies.c.id)
            .where(studies.c.study_instance_uid == study_instance_uid, image_scores.c.version == version)
        )
        return {uid: np.frombuffer(kept, STORED).astype(np.float32) for uid, kept in self._connection.execute(query)}

    def add_image_scores(self, version: int, scores: Mapping[str, Scores]) -> None:
        if not scores:
            return
        query = select(instances.c.sop_instance_uid, instances.c.id).where(instances.c.sop_instance_uid.in_(scores))
        rows = {uid: row for uid, row in self._connection.execute(query)}
        self._connection.execute(
            delete(image_scores).where(image_scores.c.version == version, image_scores.c.instance.in_(rows.values()))
        )
        self._connection.execute(
            insert(image_scores),
            [
                {"instance": rows[uid], "version": version, "scores": np.asarray(values, STORED).tobytes()}
                for uid, values in scores.items()
            ],
        )

    def put_predictions(self, study_instance_uid: str, version: int, predicted: Sequence[Prediction], *, revision: int) -> None:
        study = self._connection.execute(_study_id(study_instance_uid)).scalar_one()
        self._connection.execute(delete(predictions).where(predictions.c.study == study, predictions.c.version == version))
        self._connection.execute(
            insert(predictions),
            [
                {
                    "study": study,
                    "version": version,
                    "finding": prediction.finding,
                    "probability": prediction.probability,
                    "decision": prediction.decision.value,
                    "revision": revision,
                }
                for prediction in predicted
            ],
        )

    def predictions(self, study_instance_uid: str, version: int) -> list[Prediction]:
        query = select(predictions.c.finding, predictions.c.probability, predictions.c.decision).where(
            predictions.c.study == _study_id(study_instance_uid).scalar_subquery(), predictions.c.version == version
        )
        found = [Prediction(finding, probability, Decision(said)) for finding, probability, said in self._connection.execute(query)]
        return sorted(found, key=lambda prediction: FINDINGS.index(prediction.finding))

    def probabilities(self, study_instance_uids: Collection[str], version: int) -> dict[str, Scores]:
        found: dict[str, Scores] = {}
        place = {finding: column for column, finding in enumerate(FINDINGS)}
        for some in chunks(study_instance_uids):
            query = (
                select(studies.c.study_instance_uid, predictions.c.finding, predictions.c.probability)
                .join(predictions, predictions.c.study == studies.c.id)
                .where(studies.c.study_instance_uid.in_(some), predictions.c.version == version)
            )
            for uid, finding, probability in self._connection.execute(query):
                found.setdefault(uid, np.full(len(FINDINGS), np.nan, np.float32))[place[finding]] = probability
        return found


def _study_id(study_instance_uid: str) -> Select[tuple[int]]:
    return select(studies.c.id).where(studies.c.study_instance_uid == study_instance_uid)
