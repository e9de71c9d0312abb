"""A radiologist who does not exist: knows the hidden truth of a study, is wrong now and then, and fills in a table of labels."""

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
"""Chances: that a finding which is there is not seen, and that one is seen which is not there."""


@dataclass(frozen=True, slots=True)
class SimulatedReader:
    """The same reader says the same of the same study, whenever asked."""

    name: str = "Simulated^Reader"
    miss_rate: float = MISS_RATE
    false_positive_rate: float = FALSE_POSITIVE_RATE
    seed: int = 0

    def read_study(self, study_instance_uid: str, truth: GroundTruth) -> frozenset[str]:
        """Return the findings that are said to be present. The others are said to be absent: all 14 are spoken of."""
        chance = np.random.default_rng([self.seed, zlib.crc32(study_instance_uid.encode())]).random(len(FINDINGS))
        return frozenset(
            finding
            for finding, drawn in zip(FINDINGS, chance, strict=True)
            if (drawn >= self.miss_rate if finding in truth.findings else drawn < self.false_positive_rate)
        )

    def fill_in_table(self, asked: Path, answered: Path, said: Mapping[str, frozenset[str]]) -> None:
        """Write the rows of a table to fill in that are about these studies, with what was said of each."""
        with asked.open(encoding="utf-8", newline="") as questions, answered.open("w", encoding="utf-8", newline="") as answers:
            rows = csv.DictReader(questions)
            table = csv.DictWriter(answers, rows.fieldnames or (), lineterminator="\n")
            table.writeheader()
            table.writerows(row | self._build_label_cells(said[row[STUDY]]) for row in rows if row[STUDY] in said)

    def _build_label_cells(self, present: frozenset[str]) -> dict[str, str]:
        states = {finding: LabelState.PRESENT if finding in present else LabelState.ABSENT for finding in FINDINGS}
        return {READER: self.name} | {finding: state.value for finding, state in states.items()}


def count_wrong_statements(said: Mapping[str, frozenset[str]], truths: Mapping[str, GroundTruth]) -> int:
    """Return how many statements on these studies are wrong, of FINDINGS for each."""
    return sum(len(present ^ truths[study].findings) for study, present in said.items())
