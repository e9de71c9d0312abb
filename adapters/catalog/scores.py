"""Scores of images and predictions of studies."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from sqlalchemy import Connection, bindparam, delete, insert, select

from adapters.catalog.chunks import chunks
from adapters.catalog.tables import image_scores, instances, predictions, series, studies
from pipeline.domain import FINDINGS, Decision, Prediction, Scores

STORED = np.dtype("<f4")

# Written once: to build a statement anew, and to recognise it, takes SQLAlchemy longer than SQLite takes to run it.
_STUDY = select(studies.c.id).where(studies.c.study_instance_uid == bindparam("uid"))
_IMAGE_SCORES = (
    select(instances.c.sop_instance_uid, image_scores.c.scores)
    .join(instances, image_scores.c.instance == instances.c.id)
    .join(series, instances.c.series == series.c.id)
    .join(studies, series.c.study == studies.c.id)
    .where(studies.c.study_instance_uid == bindparam("uid"), image_scores.c.version == bindparam("of"))
)
_INSTANCES = select(instances.c.sop_instance_uid, instances.c.id).where(
    instances.c.sop_instance_uid.in_(bindparam("uids", expanding=True))
)
_FORGET_IMAGES = delete(image_scores).where(
    image_scores.c.version == bindparam("of"), image_scores.c.instance.in_(bindparam("rows", expanding=True))
)
_FORGET = delete(predictions).where(predictions.c.study == bindparam("row"), predictions.c.version == bindparam("of"))
_PREDICTIONS = select(predictions.c.finding, predictions.c.probability, predictions.c.decision).where(
    predictions.c.study == _STUDY.scalar_subquery(), predictions.c.version == bindparam("of")
)
_ADD_IMAGES, _ADD = insert(image_scores), insert(predictions)


class SqlScoreRows:
    """ports.ScoreRows."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def image_scores(self, study_instance_uid: str, version: int) -> dict[str, Scores]:
        found = self._connection.execute(_IMAGE_SCORES, {"uid": study_instance_uid, "of": version})
        return {uid: np.frombuffer(kept, STORED).astype(np.float32) for uid, kept in found}

    def add_image_scores(self, version: int, scores: Mapping[str, Scores]) -> None:
        if not scores:
            return
        rows = {uid: row for uid, row in self._connection.execute(_INSTANCES, {"uids": list(scores)})}
        self._connection.execute(_FORGET_IMAGES, {"of": version, "rows": list(rows.values())})
        self._connection.execute(
            _ADD_IMAGES,
            [
                {"instance": rows[uid], "version": version, "scores": np.asarray(values, STORED).tobytes()}
                for uid, values in scores.items()
            ],
        )

    def put_predictions(self, study_instance_uid: str, version: int, predicted: Sequence[Prediction], *, revision: int) -> None:
        study = self._connection.execute(_STUDY, {"uid": study_instance_uid}).scalar_one()
        self._connection.execute(_FORGET, {"row": study, "of": version})
        self._connection.execute(
            _ADD,
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
        rows = self._connection.execute(_PREDICTIONS, {"uid": study_instance_uid, "of": version})
        found = [Prediction(finding, probability, Decision(said)) for finding, probability, said in rows]
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
