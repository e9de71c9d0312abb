"""Scoring of every method on every support, with one small file per result; existing results are not recomputed."""

from __future__ import annotations

import hashlib
import re
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from adapters.ml.error_translation import translate_model_errors
from models.errors import CannotPartition
from models.experiment.draws import draw_supports
from models.experiment.summary import NO_LABELS
from models.fingerprint import fingerprint
from models.ladder.method import FewShotBenchmark, Logits, Method, Support
from pipeline.errors import OutOfResources, PermanentError

SCORES_FOLDER = "scores"


@dataclass(frozen=True, slots=True)
class ScoringUnit:
    """Unit of work: a method on one support, or without support."""

    method: Method
    shots: int
    draw: int
    support: Support | None

    @property
    def file_name(self) -> str:
        """File name of the result."""
        return f"{re.sub(r'[^a-z0-9.=+-]+', '-', self.method.name.lower())}--k{self.shots:04d}--d{self.draw:03d}.npz"

    @property
    def support_sha256(self) -> str:
        """SHA-256 of the rows of the support."""
        return hashlib.sha256(b"" if self.support is None else self.support.rows.astype("<i8").tobytes()).hexdigest()


@dataclass(frozen=True, slots=True)
class UnitScores:
    """Result of a unit. The logits are read from disk on demand.

    `films`: number of training cases; `positives`: of each finding among them; `normals`: normal ones. Nothing without a support.
    """

    method: str
    shots: int
    draw: int
    logits: Callable[[], Logits]
    seconds: float
    films: int
    studies_read: float  # NaN for a method without support
    positives: tuple[int, ...] = ()
    normals: int = 0


def list_units(
    methods: Sequence[Method], bench: FewShotBenchmark, *, shots: Sequence[int], count: int, seed: int
) -> list[ScoringUnit]:
    """Return all units, method by method. All methods learn from the same supports."""
    supports = draw_supports(bench.cases, bench.split, shots=shots, draws=count, seed=seed)
    return [unit for method in methods for unit in _list_method_units(method, supports)]


def _list_method_units(method: Method, supports: Sequence[Support]) -> list[ScoringUnit]:
    if not method.needs_support:
        return [ScoringUnit(method, NO_LABELS, 0, None)]
    return [ScoringUnit(method, support.shots, support.draw, support) for support in supports]


@dataclass(frozen=True, slots=True)
class ScoringResults:
    """All results, and the methods that the encoder does not support, with the reason."""

    unit_scores: Sequence[UnitScores]
    unsupported_methods: dict[str, str]


def score_units(
    out: Path,
    bench: FewShotBenchmark,
    wanted: Sequence[ScoringUnit],
    *,
    seed: int,
    advance: Callable[[ScoringUnit, bool], None] = lambda unit, kept: None,
) -> ScoringResults:
    """Compute missing results in `out`/scores and read existing ones. `advance` receives each unit and whether it existed.

    PermanentError for a file of another experiment, OutOfResources where one cannot be written.
    """
    folder = out / SCORES_FOLDER
    scored: list[UnitScores] = []
    unsupported: dict[str, str] = {}
    for unit in wanted:
        path = folder / unit.file_name
        exists = path.is_file()
        if not exists and unit.method.name not in unsupported:
            with translate_model_errors():
                try:
                    _compute_scores(path, unit, bench, seed)
                except CannotPartition as error:
                    unsupported[unit.method.name] = str(error)
        if unit.method.name not in unsupported:
            scored.append(_read_scores(path, unit, bench))
        advance(unit, exists)
    return ScoringResults(scored, unsupported)


def _compute_scores(path: Path, unit: ScoringUnit, bench: FewShotBenchmark, seed: int) -> None:
    started = time.monotonic()
    logits = unit.method.scores(bench, unit.support, seed=_derive_seed(unit, seed))
    seconds = time.monotonic() - started
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        with part.open("wb") as stream:
            np.savez(stream, logits=np.asarray(logits, dtype=np.float32), seconds=seconds, support=unit.support_sha256)
        part.replace(path)
    except OSError as error:
        raise OutOfResources(f"cannot write {path}: {error.strerror}", hint="make room and run the same command again") from error


def _derive_seed(unit: ScoringUnit, seed: int) -> int:
    """Return the seed of a support: the same for every method, so that methods may share a fit."""
    return int(fingerprint([seed, unit.shots, unit.draw])[:8], 16)


def _read_scores(path: Path, unit: ScoringUnit, bench: FewShotBenchmark) -> UnitScores:
    """Read a unit's file and verify it against the support and the test set."""
    try:
        with path.open("rb") as stream, np.load(stream) as stored:
            shape, seconds, support = stored["logits"].shape, float(stored["seconds"]), str(stored["support"])
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise PermanentError(f"{path} cannot be read", hint="remove the file: it will be computed again") from error
    if support != unit.support_sha256 or shape != (len(bench.split.test), len(bench.cases.findings)):
        raise PermanentError(f"{path} is of another experiment", hint="remove the file, or give another --out")
    return UnitScores(
        method=unit.method.name,
        shots=unit.shots,
        draw=unit.draw,
        logits=partial(_read_logits, path),
        seconds=seconds,
        films=0 if unit.support is None else len(unit.support.rows),
        studies_read=float("nan") if unit.support is None else unit.support.studies_read,
        positives=() if unit.support is None else tuple(unit.support.positives(bench.cases).tolist()),
        normals=0 if unit.support is None else unit.support.normals(bench.cases),
    )


def _read_logits(path: Path) -> Logits:
    with path.open("rb") as stream, np.load(stream) as stored:
        logits: Logits = stored["logits"]
        return logits
