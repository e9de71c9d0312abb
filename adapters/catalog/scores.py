"""Scores of instances and predictions of studies."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from sqlalchemy import ColumnElement, Connection, bindparam, delete, func, insert, literal_column, select, text

from adapters.catalog.parameters import chunks
from adapters.catalog.studies import IN_UIDS, find_study_ids
from adapters.catalog.tables import image_scores, image_thumbnails, instances, predictions, series, studies
from pipeline.domain import FINDINGS, Decision, NotAssessedReason, Prediction, Scale, Scores

SCORE_DTYPE = np.dtype("<f4")
IS_FIRST_FINDING: ColumnElement[bool] = predictions.c.finding == literal_column(f"'{FINDINGS[0]}'")
"""Every scored study has a row of it. A literal, not a parameter: SQLite uses a partial index only for a literal condition."""

# Built once: SQLAlchemy takes longer to build a statement and to look up its compiled form than SQLite takes to run it.
_IMAGE_SCORES = (
    select(studies.c.study_instance_uid, instances.c.sop_instance_uid, image_scores.c.scores)
    .join(instances, image_scores.c.instance == instances.c.id)
    .join(series, instances.c.series == series.c.id)
    .join(studies, series.c.study == studies.c.id)
    .where(IN_UIDS, image_scores.c.version == bindparam("of"))
)
_INSTANCES = select(instances.c.sop_instance_uid, instances.c.id).where(
    instances.c.sop_instance_uid.in_(bindparam("uids", expanding=True))
)
_DELETE_IMAGE_SCORES = delete(image_scores).where(
    image_scores.c.version == bindparam("of"), image_scores.c.instance.in_(bindparam("rows", expanding=True))
)
_DELETE_PREDICTIONS = delete(predictions).where(
    predictions.c.study.in_(bindparam("rows", expanding=True)), predictions.c.version == bindparam("of")
)
_PREDICTIONS = (
    select(
        studies.c.study_instance_uid,
        predictions.c.finding,
        predictions.c.score,
        predictions.c.decision,
        predictions.c.scale,
        predictions.c.likelihood,
        predictions.c.percentile,
        predictions.c.excess,
        predictions.c.reference,
        predictions.c.reason,
    )
    .join(predictions, predictions.c.study == studies.c.id)
    .where(IN_UIDS, predictions.c.version == bindparam("of"))
)
_INSERT_IMAGE_SCORES, _INSERT_PREDICTIONS = insert(image_scores), insert(predictions)
_INSERT_PREDICTION_ARRAYS = text("""
INSERT INTO predictions
    (study, version, finding, score, decision, revision, scale, likelihood, percentile, excess, reference, reason)
SELECT * FROM unnest(
    CAST(:study AS bigint[]), CAST(:version AS integer[]), CAST(:finding AS text[]), CAST(:score AS float[]),
    CAST(:decision AS text[]), CAST(:revision AS integer[]), CAST(:scale AS text[]), CAST(:likelihood AS float[]),
    CAST(:percentile AS float[]), CAST(:excess AS float[]), CAST(:reference AS integer[]), CAST(:reason AS text[]))""")
"""PostgreSQL: one statement of array parameters for a batch takes a quarter of the work of a statement for each row."""
_NO_REFERENCE = (
    select(studies.c.study_instance_uid)
    .join(predictions, predictions.c.study == studies.c.id)
    .where(
        predictions.c.version == bindparam("of"),
        text("predictions.reason = 'no reference'"),  # a literal: the partial index is found by it
        predictions.c.revision == studies.c.revision,
    )
    .group_by(predictions.c.study, studies.c.study_instance_uid)
    .order_by(predictions.c.study.desc())
)


class SqlScoreRows:
    """`ports.studies.ScoreRows`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def image_scores(self, study_instance_uid: str, version: int) -> dict[str, Scores]:
        return self.image_scores_of([study_instance_uid], version).get(study_instance_uid, {})

    def image_scores_of(self, study_instance_uids: Collection[str], version: int) -> dict[str, dict[str, Scores]]:
        found: dict[str, dict[str, Scores]] = {}
        for some in chunks(study_instance_uids):
            for study, uid, stored in self._connection.execute(_IMAGE_SCORES, {"uids": some, "of": version}):
                found.setdefault(study, {})[uid] = np.frombuffer(stored, SCORE_DTYPE).astype(np.float32)
        return found

    def remove_image_scores(self, sop_instance_uid: str) -> None:
        named = select(instances.c.id).where(instances.c.sop_instance_uid == sop_instance_uid).scalar_subquery()
        self._connection.execute(delete(image_scores).where(image_scores.c.instance == named))
        self._connection.execute(delete(image_thumbnails).where(image_thumbnails.c.instance == named))

    def add_image_scores(self, version: int, scores: Mapping[str, Scores]) -> None:
        if not scores:
            return
        rows = {uid: row for uid, row in self._connection.execute(_INSTANCES, {"uids": list(scores)})}
        self._connection.execute(_DELETE_IMAGE_SCORES, {"of": version, "rows": list(rows.values())})
        self._connection.execute(
            _INSERT_IMAGE_SCORES,
            [
                {"instance": rows[uid], "version": version, "scores": np.asarray(values, SCORE_DTYPE).tobytes()}
                for uid, values in scores.items()
            ],
        )

    def put_predictions(self, version: int, predictions: Mapping[str, Sequence[Prediction]], revisions: Mapping[str, int]) -> None:
        study_ids = find_study_ids(self._connection, predictions)
        rows = [
            {
                "study": study_ids[uid],
                "version": version,
                "finding": prediction.finding,
                "score": prediction.score,
                "decision": prediction.decision.value,
                "revision": revisions[uid],
                "scale": prediction.scale.value,
                "likelihood": prediction.likelihood,
                "percentile": prediction.percentile,
                "excess": prediction.excess,
                "reference": prediction.reference,
                "reason": prediction.reason.value if prediction.reason else "",
            }
            for uid, of in predictions.items()
            for prediction in of
        ]
        for some in chunks(list(study_ids.values())):
            self._connection.execute(_DELETE_PREDICTIONS, {"rows": some, "of": version})
        if rows and self._connection.dialect.name == "postgresql":
            self._connection.execute(_INSERT_PREDICTION_ARRAYS, {name: [row[name] for row in rows] for name in rows[0]})
        elif rows:
            self._connection.execute(_INSERT_PREDICTIONS, rows)

    def predictions(self, study_instance_uid: str, version: int) -> list[Prediction]:
        return self.predictions_of([study_instance_uid], version).get(study_instance_uid, [])

    def predictions_of(self, study_instance_uids: Collection[str], version: int) -> dict[str, list[Prediction]]:
        found: dict[str, list[Prediction]] = {}
        for some in chunks(study_instance_uids):
            for study, *columns in self._connection.execute(_PREDICTIONS, {"uids": some, "of": version}):
                found.setdefault(study, []).append(_build_prediction(*columns))
        return {study: sorted(of, key=lambda one: FINDINGS.index(one.finding)) for study, of in found.items()}

    def without_reference(self, version: int, *, limit: int) -> list[str]:
        return list(self._connection.scalars(_NO_REFERENCE.limit(limit), {"of": version}))

    def count_scored(self, version: int, *, at_most: int) -> int:
        rows = select(predictions.c.study).where(IS_FIRST_FINDING, predictions.c.version == version).limit(at_most).subquery()
        return self._connection.scalar(select(func.count()).select_from(rows)) or 0

    def newest_scored(self, version: int, *, limit: int) -> list[str]:
        query = (
            select(studies.c.study_instance_uid)
            .join(predictions, predictions.c.study == studies.c.id)
            .where(IS_FIRST_FINDING, predictions.c.version == version)
            .order_by(predictions.c.study.desc())
            .limit(limit)
        )
        return list(self._connection.scalars(query))

    def study_scores(self, study_instance_uids: Collection[str], version: int) -> dict[str, Scores]:
        found: dict[str, Scores] = {}
        column_of = {finding: column for column, finding in enumerate(FINDINGS)}
        for some in chunks(study_instance_uids):
            query = (
                select(studies.c.study_instance_uid, predictions.c.finding, predictions.c.score)
                .join(predictions, predictions.c.study == studies.c.id)
                .where(studies.c.study_instance_uid.in_(some), predictions.c.version == version)
            )
            for uid, finding, score in self._connection.execute(query):
                found.setdefault(uid, np.full(len(FINDINGS), np.nan, np.float32))[column_of[finding]] = score
        return found


def _build_prediction(
    finding: str,
    score: float,
    decision: str,
    scale: str,
    likelihood: float | None,
    percentile: float | None,
    excess: float | None,
    reference: int | None,
    reason: str,
) -> Prediction:
    return Prediction(
        finding,
        score,
        Decision(decision),
        Scale(scale),
        likelihood=likelihood,
        percentile=percentile,
        excess=excess,
        reference=reference,
        reason=NotAssessedReason(reason) if reason else None,
    )
