"""Simulated radiologist: reads the hidden truth of a study with random errors and fills in a table of labels."""

from __future__ import annotations

import csv
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from adapters.label_csv.columns import READER, STUDY
from adapters.simulator.truth import GroundTruth
from pipeline.domain import FINDINGS, LabelState

MISS_RATE, FALSE_POSITIVE_RATE = 0.10, 0.02
"""Probability of missing a present finding, and of reporting an absent one."""


@dataclass(frozen=True, slots=True)
class SimulatedReader:
    """Reader with a miss rate and a false positive rate; deterministic per study."""

    name: str = "Simulated^Reader"
    miss_rate: float = MISS_RATE
    false_positive_rate: float = FALSE_POSITIVE_RATE
    seed: int = 0

    def read_study(self, study_instance_uid: str, truth: GroundTruth) -> frozenset[str]:
        """Return the findings reported present. The others of the 14 are reported absent."""
        draws = np.random.default_rng([self.seed, zlib.crc32(study_instance_uid.encode())]).random(len(FINDINGS))
        return frozenset(
            finding
            for finding, drawn in zip(FINDINGS, draws, strict=True)
            if (drawn >= self.miss_rate if finding in truth.findings else drawn < self.false_positive_rate)
        )

    def fill_in_table(self, asked: Path, answered: Path, said: Mapping[str, frozenset[str]]) -> None:
        """Copy the rows of the studies in `said` from the table `asked` to `answered`, with their labels filled in."""
        with asked.open(encoding="utf-8", newline="") as questions, answered.open("w", encoding="utf-8", newline="") as answers:
            rows = csv.DictReader(questions)
            table = csv.DictWriter(answers, rows.fieldnames or (), lineterminator="\n")
            table.writeheader()
            table.writerows(row | self._build_label_cells(said[row[STUDY]]) for row in rows if row[STUDY] in said)

    def _build_label_cells(self, present: frozenset[str]) -> dict[str, str]:
        states = {finding: LabelState.PRESENT if finding in present else LabelState.ABSENT for finding in FINDINGS}
        return {READER: self.name} | {finding: state.value for finding, state in states.items()}


def count_wrong_statements(said: Mapping[str, frozenset[str]], truths: Mapping[str, GroundTruth]) -> int:
    """Return the number of wrong statements, with one statement per study and finding."""
    return sum(len(present ^ truths[study].findings) for study, present in said.items())
