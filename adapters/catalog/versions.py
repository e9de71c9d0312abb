"""Model versions."""

from __future__ import annotations

from dataclasses import asdict, fields

from sqlalchemy import Connection, RowMapping, func, insert, select, update

from adapters.catalog.parameters import sanitise_text
from adapters.catalog.sql_time import now
from adapters.catalog.tables import model_versions
from pipeline.domain import ModelVersion, Scale, VersionState

VERSION_FIELDS = [field.name for field in fields(ModelVersion)]


class SqlVersions:
    """`ports.services.Versions`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def serving(self) -> ModelVersion | None:
        query = select(model_versions).where(model_versions.c.state == VersionState.SERVING.value)
        row = self._connection.execute(query).mappings().one_or_none()
        return _build_version(row) if row else None

    def find(self, number: int) -> ModelVersion | None:
        row = self._connection.execute(select(model_versions).where(model_versions.c.number == number)).mappings().one_or_none()
        return _build_version(row) if row else None

    def all(self) -> list[ModelVersion]:
        rows = self._connection.execute(select(model_versions).order_by(model_versions.c.number)).mappings()
        return [_build_version(row) for row in rows]

    def next_number(self) -> int:
        return (self._connection.scalar(select(func.max(model_versions.c.number))) or 0) + 1

    def add(self, version: ModelVersion) -> None:
        served = {"served_at": now()} if version.state is VersionState.SERVING else {}
        self._connection.execute(
            insert(model_versions).values(
                **asdict(version)
                | {"state": version.state.value, "calibrated": version.calibrated, "scales": _write_scales(version)}
                | served
            )
        )

    def previously_serving(self) -> ModelVersion | None:
        query = (
            select(model_versions)
            .where(model_versions.c.state == VersionState.RETIRED.value)
            .order_by(model_versions.c.retired_at.desc(), model_versions.c.number.desc())
            .limit(1)
        )
        row = self._connection.execute(query).mappings().one_or_none()
        return _build_version(row) if row else None

    def put_state(self, number: int, state: VersionState, *, reason: str) -> None:
        self._connection.execute(
            update(model_versions).where(model_versions.c.number == number).values(state=state.value, reason=sanitise_text(reason))
        )

    def serve(self, number: int) -> None:
        self._connection.execute(
            update(model_versions)
            .where(model_versions.c.state == VersionState.SERVING.value, model_versions.c.number != number)
            .values(state=VersionState.RETIRED.value, retired_at=now())
        )
        self._connection.execute(
            update(model_versions)
            .where(model_versions.c.number == number)
            .values(state=VersionState.SERVING.value, served_at=now(), retired_at=None)
        )


def _build_version(row: RowMapping) -> ModelVersion:
    scales = {finding: Scale(scale) for finding, scale in row["scales"].items()}
    return ModelVersion(**{name: row[name] for name in VERSION_FIELDS} | {"state": VersionState(row["state"]), "scales": scales})


def _write_scales(version: ModelVersion) -> dict[str, str]:
    return {finding: scale.value for finding, scale in version.scales.items()}
