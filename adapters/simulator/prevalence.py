"""How often findings come, alone and together, in whom and on which view: a summary of the label table of ChestX-ray14.

The counts are taken from the table that the NIH Clinical Center publishes with the data set: Wang X, Peng Y, Lu L, Lu Z,
Bagheri M, Summers RM. "ChestX-ray8: Hospital-scale Chest X-ray Database and Benchmarks on Weakly-Supervised Classification and
Localization of Common Thorax Diseases", IEEE CVPR 2017, 3462-3471. `prevalence.csv` beside this file is made by

    python -m adapters.simulator.prevalence Data_Entry_2017_v2020.csv.gz > adapters/simulator/prevalence.csv
"""

from __future__ import annotations

import csv
import gzip
import io
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

import numpy as np
import numpy.typing as npt

from adapters.simulator.sites import NATURAL_AP_SHARE
from pipeline.domain import FINDINGS

VIEWS = ("PA", "AP")
MIN_COMBINATION_FILMS = 2
"""A combination seen on fewer films of one view is counted as a smaller one: it gives up findings."""
MAX_VISITS = 40
"""Patients with more films than this are counted as having this many."""
OLDEST = 100
"""Ages above are typing errors of the table."""
COLUMNS = ("of", "view", "value", "count", "female", "age", "spread")
"""`of` is "findings" (value: places in FINDINGS joined by |, empty for none; female, age, spread: share, mean, SD of its patients)
or "visits" (value: films of a patient; count: patients)."""


@dataclass(frozen=True, slots=True)
class Combinations:
    """What films of one view show: C combinations of findings."""

    findings: tuple[tuple[str, ...], ...]  # C
    has: npt.NDArray[np.bool_]  # [C, 14], in the order of FINDINGS
    share: npt.NDArray[np.float64]  # [C], sums to 1
    female: npt.NDArray[np.float64]  # [C] share of women
    age: npt.NDArray[np.float64]  # [C] mean, years
    spread: npt.NDArray[np.float64]  # [C] standard deviation of age, years

    @property
    def prevalence(self) -> npt.NDArray[np.float64]:
        """Share of films with each finding, [14]."""
        return np.asarray(self.share @ self.has)


@cache
def _load_summary() -> tuple[dict[str, str], ...]:
    text = files("adapters.simulator").joinpath("prevalence.csv").read_text(encoding="utf-8")
    return tuple(csv.DictReader(io.StringIO(text)))


@cache
def combinations(view: str) -> Combinations:
    """Return the combinations of a view, "PA" or "AP"; the commonest first. KeyError for another view."""
    if view not in VIEWS:
        raise KeyError(view)
    rows = [row for row in _load_summary() if row["of"] == "findings" and row["view"] == view]
    named = tuple(tuple(FINDINGS[int(place)] for place in row["value"].split("|") if place) for row in rows)
    numbers = {column: np.array([float(row[column]) for row in rows]) for column in ("count", "female", "age", "spread")}
    has = np.array([[finding in names for finding in FINDINGS] for names in named])
    share = numbers["count"] / numbers["count"].sum()
    return Combinations(named, has, share, numbers["female"], numbers["age"], numbers["spread"])


@cache
def visit_counts() -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Return how many films a patient has, [V], and the share of patients who have so many, [V]."""
    rows = [row for row in _load_summary() if row["of"] == "visits"]
    count = np.array([float(row["count"]) for row in rows])
    return np.array([int(row["value"]) for row in rows]), count / count.sum()


def prevalence(ap_share: float = NATURAL_AP_SHARE) -> Mapping[str, float]:
    """Return the share of films with each finding at a hospital that takes this share of its films AP."""
    both = (1 - ap_share) * combinations("PA").prevalence + ap_share * combinations("AP").prevalence
    return dict(zip(FINDINGS, map(float, both), strict=True))


def draw_findings(chance: np.random.Generator, view: str) -> tuple[str, ...]:
    """Draw what one film of a view shows, in the combinations in which findings come; mostly nothing."""
    table = combinations(view)
    return table.findings[int(chance.choice(len(table.findings), p=table.share))]


@dataclass(frozen=True, slots=True)
class _PrevalenceRow:
    findings: frozenset[str]
    patient: str
    age: int
    female: bool
    view: str


def summarise(source: Path) -> str:
    """Return the text of `prevalence.csv` for the label table of ChestX-ray14 (CSV or its gzip)."""
    rows = list(_read_rows(source))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for view in VIEWS:
        pooled = _pool_combinations([row for row in rows if row.view == view])
        for findings, members in sorted(pooled.items(), key=lambda item: (-len(item[1]), item[0])):
            ages = [member.age for member in members]
            female = np.mean([member.female for member in members])
            value = "|".join(str(FINDINGS.index(finding)) for finding in findings)
            writer.writerow(["findings", view, value, len(members), f"{female:.2f}", f"{np.mean(ages):.0f}", f"{np.std(ages):.0f}"])
    films = Counter(Counter(row.patient for row in rows).values())
    counted: Counter[int] = Counter()
    for number, patients in films.items():
        counted[min(number, MAX_VISITS)] += patients
    for number, patients in sorted(counted.items()):
        writer.writerow(["visits", "", number, patients, "", "", ""])
    return out.getvalue()


def _read_rows(source: Path) -> Iterator[_PrevalenceRow]:
    """Read by position: the table's header has commas inside names, so that it has more columns than its rows."""
    raw = source.read_bytes()
    text = (gzip.decompress(raw) if source.suffix == ".gz" else raw).decode("utf-8")
    lines = csv.reader(io.StringIO(text))
    next(lines)
    for _, findings, _, patient, age, sex, view, *_ in lines:
        if int(age) <= OLDEST:
            yield _PrevalenceRow(frozenset(findings.split("|")) - {"No Finding"}, patient, int(age), sex == "F", view)


def _pool_combinations(rows: Sequence[_PrevalenceRow]) -> dict[tuple[str, ...], list[_PrevalenceRow]]:
    """Group films by combination; those of too rare a one give up findings, each finding about as often for its number."""
    common = Counter(finding for row in rows for finding in row.findings)
    counted = Counter(row.findings for row in rows)
    lost: Counter[str] = Counter()
    groups: dict[tuple[str, ...], list[_PrevalenceRow]] = {}
    for row in rows:
        kept = set(row.findings)
        while len(kept) > 1 and counted[frozenset(kept)] < MIN_COMBINATION_FILMS:
            least = min(sorted(kept), key=lambda finding: (lost[finding] + 1) / common[finding])
            kept.remove(least)
            lost[least] += 1
        groups.setdefault(tuple(sorted(kept, key=FINDINGS.index)), []).append(row)
    return groups


if __name__ == "__main__":
    sys.stdout.write(summarise(Path(sys.argv[1])))
