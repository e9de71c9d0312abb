"""Simulated patient populations: cases without films by the tens of thousands, and the film of a case on demand.

A natural population has the prevalences and combinations of ChestX-ray14 (`prevalence`) and patients with several visits; an
enriched one has a minimum number of cases of each finding, and weights that undo the enrichment.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from functools import partial

import numpy as np
import numpy.typing as npt
from scipy import special

from adapters.simulator import phantom
from adapters.simulator.anatomy import TRAIT_COUNT, Body, body_from_traits
from adapters.simulator.parallel import map_in_processes
from adapters.simulator.prevalence import VIEWS, combinations, visit_counts
from adapters.simulator.sites import Site, find_site
from pipeline.domain import FINDINGS
from pipeline.errors import PermanentError

YOUNGEST, OLDEST = 18, 95
"""Years: the anatomy is an adult's."""
SMALLEST_EXTENT = 0.04
EXTENT_POWER = 1.1
"""Extents are a uniform number raised to this power: the median is 0.49, the first decile 0.12."""
EXTENT_CORRELATION = 0.8
"""Correlation of a finding's extent from one visit to the next, on the normal scale."""
UNCHANGED_PROBABILITY, ACUTE_CHANGE_PROBABILITY = 0.35, 0.35
"""Probability that all findings are unchanged since the last visit; that only non-chronic findings may have changed."""
CHRONIC_FINDINGS = ("Cardiomegaly", "Mass", "Nodule", "Emphysema", "Fibrosis", "Pleural_Thickening", "Hernia")
"""Findings that rarely disappear between visits."""
CHRONIC_CHANGE_FACTOR = 0.12
"""Factor of the probability of a visit for each chronic finding that appears or disappears."""
FIRST_ENRICHED_NUMBER = 1_000_001
"""Number of the first patient of an enriched population, beyond those of a natural one."""
RAKING_ROUNDS = 60
PREVALENCE_TOLERANCE = 0.02
"""Tolerance of a prevalence with a site's factor, relative."""
FIRST_DAY = date(2021, 1, 4)
"""First day of the simulated hospitals; ages refer to its year."""
VISIT_INTERVAL = timedelta(days=37)

Indices = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Case:
    """One frontal film on demand: patient, visit, view and findings."""

    number: int  # of the patient, within the site and the population's seed
    visit: int  # 0 for the first
    hospital: Site
    seed: int  # of the film
    view: str  # "PA" or "AP"
    sex: str
    age: int  # years, at this visit
    body: Body
    findings: Mapping[str, float]  # finding -> extent 0..1
    weight: float = 1.0  # number of studies of the natural population that the case represents

    @property
    def site(self) -> str:
        """Name of the site."""
        return self.hospital.name

    @property
    def patient(self) -> str:
        """Unique name of the patient."""
        return f"{self.site}-{self.number:07d}"

    @property
    def day(self) -> date:
        """Date of the film."""
        return visit_date(self.number, self.visit)

    @property
    def key(self) -> str:
        """Unique name of the film."""
        return f"{self.patient}-{self.visit:03d}"


def natural_cases(site: Site | str, count: int, *, seed: int) -> list[Case]:
    """Return `count` studies of a site at natural prevalences, with several studies over time of some patients.

    Between visits findings persist, grow, fade or disappear; every visit has the prevalences of the table. Sorted by patient
    and visit. KeyError for an unknown site.
    """
    hospital = find_site(site)
    rng = _create_generator(hospital, seed, "natural")
    table = _CombinationTable(hospital)
    films = _draw_film_counts(rng, count)
    rows, latent = table.draw(rng, len(films)), rng.standard_normal((len(films), len(FINDINGS)))
    people = _draw_people(rng, table, hospital, rows)
    patients, visits, visit_rows, latents = [np.arange(len(films))], [np.zeros(len(films), np.intp)], [rows], [latent]
    for visit in range(1, int(films.max(initial=1))):
        again = np.flatnonzero(films[patients[-1]] > visit)
        rows, latent = table.draw_next_visit(rng, visit_rows[-1][again]), _evolve_extents(rng, latents[-1][again])
        patients.append(patients[-1][again])
        visits.append(np.full(len(again), visit))
        visit_rows.append(rows)
        latents.append(latent)
    visit_table = _VisitTable(np.concatenate(patients), np.concatenate(visits), np.concatenate(visit_rows), np.concatenate(latents))
    return _build_cases(rng, hospital, table, people, visit_table.sorted_by_patient(), np.ones(count), first=1)


def enriched_cases(site: Site | str, count: int, *, seed: int, per_finding: int) -> list[Case]:
    """Return `count` studies of a site, one per patient, at least `per_finding` of them with each finding.

    Weights undo the enrichment: the weighted prevalences and the weighted share of AP films are the site's natural ones, and
    weights sum to `count`. A case's weight is its natural density over that of its mixture (the balance heuristic of Veach and
    Guibas, SIGGRAPH 1995), then raked to the margins (Deming and Stephan, Ann Math Stat 1940;11:427). KeyError for an unknown
    site; PermanentError where `count` cases cannot hold `per_finding` of each.
    """
    hospital = find_site(site)
    rng = _create_generator(hospital, seed, "enriched")
    table = _CombinationTable(hospital)
    drawn: list[Indices] = []
    asked = np.zeros(len(FINDINGS))  # draws added for each finding
    for finding in np.argsort(table.prevalence):
        have = sum(int(table.has[rows, finding].sum()) for rows in drawn)
        asked[finding] = max(0, per_finding - have)
        drawn.append(table.draw(rng, int(asked[finding]), among=table.has[:, finding]))
    left = count - int(asked.sum())
    if left < 0:
        raise PermanentError(
            f"{count} cases cannot hold {per_finding} of each finding", hint=f"ask for {count - left} or more cases"
        )
    rows = rng.permutation(np.concatenate([*drawn, table.draw(rng, left)]))
    weight = count / (left + table.has[rows] @ (asked / table.prevalence))
    visit_table = _VisitTable(np.arange(count), np.zeros(count, np.intp), rows, rng.standard_normal((count, len(FINDINGS))))
    people = _draw_people(rng, table, hospital, rows)
    return _build_cases(rng, hospital, table, people, visit_table, _rake_weights(weight, table, rows), first=FIRST_ENRICHED_NUMBER)


def visit_date(number: int, visit: int) -> date:
    """Return the date of a patient's visit."""
    return FIRST_DAY + visit * VISIT_INTERVAL + timedelta(days=number % 29)


class _CombinationTable:
    """Combinations of both views of one site: R rows, sorted by their chronic findings."""

    def __init__(self, site: Site) -> None:
        both = [combinations(view) for view in VIEWS]
        has = np.concatenate([table.has for table in both])
        chronic = has @ (2 ** np.arange(len(FINDINGS)) * np.isin(FINDINGS, CHRONIC_FINDINGS))
        order = np.argsort(chronic, kind="stable")
        self.chronic: Indices = chronic[order]
        self.has = has[order]
        self.portable = np.repeat([False, True], [len(table.findings) for table in both])[order]
        shares = (1 - site.ap_share, site.ap_share)
        share = np.concatenate([table.share * part for table, part in zip(both, shares, strict=True)])[order]
        self.share = _apply_prevalence_factors(share / share.sum(), self.has, self.portable, site)
        self.female, self.age, self.spread = (
            np.concatenate([getattr(table, name) for table in both])[order] for name in ("female", "age", "spread")
        )
        self.prevalence = self.share @ self.has
        total = np.concatenate([[0.0], np.cumsum(self.share)])
        self._total = total
        self._low = total[np.searchsorted(self.chronic, self.chronic, side="left")]
        self._high = total[np.searchsorted(self.chronic, self.chronic, side="right")]

    def draw(self, rng: np.random.Generator, count: int, among: npt.NDArray[np.bool_] | None = None) -> Indices:
        """Draw rows by their share, from all rows or from those of a mask."""
        total = self._total if among is None else np.concatenate([[0.0], np.cumsum(self.share * among)])
        return self._find_rows(total, rng.random(count) * total[-1])

    def draw_next_visit(self, rng: np.random.Generator, rows: Indices) -> Indices:
        """Draw the row of the next visit. Each of the three transitions preserves the shares of the table.

        No change; or a new row among those with the same chronic findings; or any row as a proposal, accepted with a probability
        that is symmetric (Metropolis et al., J Chem Phys 1953;21:1087).
        """
        transition = rng.random(len(rows))
        acute = self._find_rows(self._total, self._low[rows] + rng.random(len(rows)) * (self._high[rows] - self._low[rows]))
        proposed = self.draw(rng, len(rows))
        changes = np.bitwise_count(self.chronic[rows] ^ self.chronic[proposed])
        accepted = rng.random(len(rows)) < CHRONIC_CHANGE_FACTOR**changes
        redrawn = np.where(accepted, proposed, rows)
        return np.where(
            transition < UNCHANGED_PROBABILITY,
            rows,
            np.where(transition < UNCHANGED_PROBABILITY + ACUTE_CHANGE_PROBABILITY, acute, redrawn),
        )

    @staticmethod
    def _find_rows(total: npt.NDArray[np.float64], position: npt.NDArray[np.float64]) -> Indices:
        return np.asarray(np.searchsorted(total, position, side="right") - 1).clip(0, len(total) - 2)


@dataclass(frozen=True, slots=True)
class _VisitTable:
    """N visits: patient, number of the visit, row of the table, and extent of each finding on the normal scale [N, 14]."""

    patient: Indices
    visit: Indices
    row: Indices
    latent: npt.NDArray[np.float64]

    def sorted_by_patient(self) -> _VisitTable:
        order = np.lexsort((self.visit, self.patient))
        return _VisitTable(self.patient[order], self.visit[order], self.row[order], self.latent[order])


@dataclass(frozen=True, slots=True)
class _Person:
    body: Body
    sex: str
    age: int


def _create_generator(site: Site, seed: int, kind: str) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(f"{site.name}/{kind}".encode())])


def _draw_film_counts(rng: np.random.Generator, count: int) -> Indices:
    """Draw the number of films of each patient up to a total of `count`; the last patient's number is truncated."""
    numbers, share = visit_counts()
    films = rng.choice(numbers, size=max(count, 1), p=share)
    until = np.cumsum(films)
    patients = int(np.searchsorted(until, count)) + 1
    films = films[:patients].copy()
    films[-1] -= max(0, int(until[patients - 1]) - count)
    return films[films > 0]


def _evolve_extents(rng: np.random.Generator, latent: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.asarray(EXTENT_CORRELATION * latent + np.sqrt(1 - EXTENT_CORRELATION**2) * rng.standard_normal(latent.shape))


def _draw_people(rng: np.random.Generator, table: _CombinationTable, site: Site, rows: Indices) -> list[_Person]:
    """Draw the patients: age and sex by the table, given the findings of the first film."""
    age = table.age[rows] + table.spread[rows] * rng.standard_normal(len(rows)) + site.age_offset
    years = np.clip(np.rint(age), YOUNGEST, OLDEST).astype(int).tolist()
    sexes = np.where(rng.random(len(rows)) < table.female[rows], "F", "M").tolist()
    traits, seeds = rng.standard_normal((len(rows), TRAIT_COUNT)).tolist(), rng.integers(2**31, size=len(rows)).tolist()
    return [
        _Person(body_from_traits(trait, sex=sex, age=age, seed=seed), sex, age)
        for trait, sex, age, seed in zip(traits, sexes, years, seeds, strict=True)
    ]


def _build_cases(
    rng: np.random.Generator,
    site: Site,
    table: _CombinationTable,
    people: Sequence[_Person],
    visit_table: _VisitTable,
    weight: npt.NDArray[np.float64],
    *,
    first: int,
) -> list[Case]:
    extents = (SMALLEST_EXTENT + (1 - SMALLEST_EXTENT) * special.ndtr(visit_table.latent) ** EXTENT_POWER).round(3).tolist()
    present = [[(finding, FINDINGS[finding]) for finding in np.flatnonzero(has)] for has in table.has]
    seeds = rng.integers(2**31, size=len(visit_table.patient)).tolist()
    portable = table.portable.tolist()
    return [
        Case(
            number=first + patient,
            visit=visit,
            hospital=site,
            seed=seed,
            view="AP" if portable[row] else "PA",
            sex=people[patient].sex,
            age=people[patient].age + visit_date(first + patient, visit).year - FIRST_DAY.year,
            body=people[patient].body,
            findings={name: extent[finding] for finding, name in present[row]},
            weight=share,
        )
        for patient, visit, row, extent, seed, share in zip(
            visit_table.patient.tolist(),
            visit_table.visit.tolist(),
            visit_table.row.tolist(),
            extents,
            seeds,
            weight.tolist(),
            strict=True,
        )
    ]


def _apply_prevalence_factors(
    share: npt.NDArray[np.float64], has: npt.NDArray[np.bool_], portable: npt.NDArray[np.bool_], site: Site
) -> npt.NDArray[np.float64]:
    """Scale the shares of combinations until every finding has its share times the site's factor; the share of AP films is kept.

    PermanentError where no such shares exist.
    """
    if not site.prevalence_factors:
        return share
    factors = np.array([site.prevalence_factors.get(finding, 1.0) for finding in FINDINGS])
    targets = np.append(factors * (share @ has), share @ portable)
    scaled = _rake_to_margins(share, np.column_stack([has, portable]), targets, count=1.0)
    if not np.allclose(scaled @ has, targets[:-1], rtol=PREVALENCE_TOLERANCE):
        worst = int(np.argmax(np.abs(scaled @ has / targets[:-1] - 1)))
        raise PermanentError(
            f"the site {site.name!r} asks for {FINDINGS[worst]} on {targets[worst]:.1%} of its films beside its other findings: "
            "no mixture of the combinations of ChestX-ray14 has that",
            hint="choose prevalence_factors nearer to 1",
        )
    return scaled


def _rake_weights(weight: npt.NDArray[np.float64], table: _CombinationTable, rows: Indices) -> npt.NDArray[np.float64]:
    """Scale weights until every weighted margin (14 findings, AP) is the table's; a margin without a case is left unchanged."""
    margins = np.column_stack([table.has[rows], table.portable[rows]])
    targets = np.append(table.prevalence, table.share @ table.portable)
    return _rake_to_margins(weight * (len(rows) / weight.sum()), margins, targets, count=len(rows))


def _rake_to_margins(
    weight: npt.NDArray[np.float64], margins: npt.NDArray[np.bool_], targets: npt.NDArray[np.float64], *, count: float
) -> npt.NDArray[np.float64]:
    """Scale weights [N] of sum `count` until the share of each margin [N, M] is its target [M]; an empty or full margin is kept."""
    for _ in range(RAKING_ROUNDS):
        for inside, share in zip(margins.T, targets, strict=True):
            own = float(weight[inside].sum())
            if 0 < own < count:
                weight = weight * np.where(inside, share * count / own, (1 - share) * count / (count - own))
    return weight


def take_film(case: Case, *, size: tuple[int, int] = (512, 512)) -> phantom.SimulatedFilm:
    """Take the film of a case, [rows, columns] = size. The same case gives the same film."""
    return phantom.take_frontal(case.seed, body=case.body, view=case.view, findings=case.findings, size=size, site=case.hospital)


def take_films(cases: Sequence[Case], *, size: tuple[int, int] = (512, 512), workers: int = 2) -> Iterator[phantom.SimulatedFilm]:
    """Take the films of cases, in order, in `workers` processes; with fewer than two, in this process.

    Look-ahead is bounded. Scripts need `if __name__ == "__main__"` (`parallel.map_in_processes`).
    """
    return map_in_processes(partial(take_film, size=size), cases, workers=workers)
