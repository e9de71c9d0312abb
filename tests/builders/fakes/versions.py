"""Fake of ports.Versions, and a version."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pipeline.domain import (
    FINDINGS,
    ModelVersion,
    Scale,
    VersionState,
)
from tests.builders.fakes.rows import CatalogTables


class FakeVersions:
    def __init__(self, tables: CatalogTables) -> None:
        self._t = tables

    def serving(self) -> ModelVersion | None:
        return next((v for v in self._t.versions.values() if v.state is VersionState.SERVING), None)

    def find(self, number: int) -> ModelVersion | None:
        return self._t.versions.get(number)

    def all(self) -> list[ModelVersion]:
        return sorted(self._t.versions.values(), key=lambda v: v.number)

    def next_number(self) -> int:
        return max(self._t.versions, default=0) + 1

    def add(self, version: ModelVersion) -> None:
        if version.number in self._t.versions or (version.state is VersionState.SERVING and self.serving()):
            raise ValueError("number taken, or another version serves")
        self._t.versions[version.number] = version

    def previously_serving(self) -> ModelVersion | None:
        retired = [n for n in self._t.retired if self._t.versions[n].state is VersionState.RETIRED]
        return self._t.versions[retired[-1]] if retired else None

    def put_state(self, number: int, state: VersionState, *, reason: str) -> None:
        self._t.versions[number] = replace(self._t.versions[number], state=state, reason=reason)

    def serve(self, number: int) -> None:
        before = self.serving()
        if before is not None and before.number != number:
            self._t.retired.append(before.number)
            self._t.versions[before.number] = replace(before, state=VersionState.RETIRED)
        self._t.versions[number] = replace(self._t.versions[number], state=VersionState.SERVING)


def a_version(number: int = 1, state: VersionState = VersionState.SERVING, **changes: Any) -> ModelVersion:
    """A ModelVersion that has learnt every finding, with a threshold of .5; `calibrated`: from many labels."""
    values: dict[str, Any] = {
        "number": number,
        "state": state,
        "name": f"zero-shot-{number}",
        "base": "tiny",
        "weights_sha256": "0" * 64,
        "device_uid": f"2.25.{1000 + number}",
        "thresholds": dict.fromkeys(FINDINGS, 0.5),
        "undetermined_margin": 0.05,
        "scales": dict.fromkeys(FINDINGS, Scale.BAND),
    }
    if changes.pop("calibrated", False):
        values["scales"] = dict.fromkeys(FINDINGS, Scale.PROBABILITY)
    return ModelVersion(**{**values, **changes})
