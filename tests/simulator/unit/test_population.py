from __future__ import annotations

from collections import defaultdict
from functools import cache, partial
from itertools import pairwise
from operator import truediv

import numpy as np
import pytest

from adapters.simulator import phantom, population, prevalence
from adapters.simulator.parallel import map_in_processes
from adapters.simulator.population import Case
from adapters.simulator.sites import PRETRAINING_SITES, SITES, UNSEEN_SITE
from pipeline.domain import FINDINGS
from pipeline.errors import PermanentError

TINY = (48, 48)
RECIPROCAL = partial(truediv, 1)


@cache
def natural(site: str) -> list[Case]:
    return population.natural_cases(site, 12_000, seed=1)


@cache
def enriched(site: str) -> list[Case]:
    return population.enriched_cases(site, 3000, seed=1, per_finding=60)


def labels(cases: list[Case]) -> np.ndarray:
    return np.array([[finding in case.findings for finding in FINDINGS] for case in cases])


def by_patient(cases: list[Case]) -> dict[int, list[Case]]:
    patients: dict[int, list[Case]] = defaultdict(list)
    for case in cases:
        patients[case.number].append(case)
    return patients


def test_there_are_four_training_sites_and_one_unseen_site() -> None:
    assert set(PRETRAINING_SITES) | {UNSEEN_SITE} == set(SITES)
    assert len(PRETRAINING_SITES) == 4
    assert all(name == site.name for name, site in SITES.items())


@pytest.mark.parametrize("site", ["north", "west"])
def test_a_natural_population_has_natural_prevalences_views_and_combinations(site: str) -> None:
    cases, share = natural(site), SITES[site].ap_share
    has = labels(cases)
    assert np.mean([case.view == "AP" for case in cases]) == pytest.approx(share, abs=0.02)
    for index, (_, wanted) in enumerate(prevalence.prevalence(share).items()):
        assert has[:, index].mean() == pytest.approx(wanted, rel=0.35, abs=0.003)
    together = has[:, FINDINGS.index("Effusion")] & has[:, FINDINGS.index("Atelectasis")]
    tables = [prevalence.combinations(view) for view in prevalence.VIEWS]
    both = [table.has[:, FINDINGS.index("Effusion")] & table.has[:, FINDINGS.index("Atelectasis")] for table in tables]
    pa, ap = (float(table.share[rows].sum()) for table, rows in zip(tables, both, strict=True))
    assert together.mean() == pytest.approx((1 - share) * pa + share * ap, rel=0.25)


def test_the_third_visit_has_the_same_prevalences_as_the_first() -> None:
    third = [case for case in population.natural_cases("north", 40_000, seed=2) if case.visit == 2]  # each of another patient
    shares = labels(third).mean(axis=0)
    for share, wanted in zip(shares, prevalence.prevalence(SITES["north"].ap_share).values(), strict=True):
        assert abs(share - wanted) < 4.5 * np.sqrt(wanted / len(third))
    assert np.mean([case.view == "AP" for case in third]) == pytest.approx(SITES["north"].ap_share, abs=0.03)


def test_returning_patients_keep_body_sex_and_most_chronic_findings() -> None:
    patients = by_patient(natural("north"))
    assert len(patients) < 5_000
    kept, chronic = 0, 0
    for visits in patients.values():
        assert [case.visit for case in visits] == list(range(len(visits)))
        assert len({id(case.body) for case in visits}) == 1
        assert len({case.sex for case in visits}) == 1
        assert all(before.day < after.day and before.age <= after.age for before, after in pairwise(visits))
        for before, after in pairwise(visits):
            had = set(before.findings) & set(population.CHRONIC_FINDINGS)
            chronic += len(had)
            kept += len(had & set(after.findings))
    assert kept / chronic > 0.8


def test_extents_of_findings_are_correlated_between_visits() -> None:
    before, after = [], []
    for visits in by_patient(natural("north")).values():
        for one, other in pairwise(visits):
            for finding in set(one.findings) & set(other.findings):
                before.append(one.findings[finding])
                after.append(other.findings[finding])
    assert 0.5 < np.corrcoef(before, after)[0, 1] < 0.95


def test_extents_range_evenly_from_subtle_to_gross() -> None:
    extents = np.array([extent for case in natural("north") for extent in case.findings.values()])
    assert extents.min() > 0 and extents.max() <= 1
    tenth, half, nine_tenths = np.quantile(extents, [0.1, 0.5, 0.9])
    assert 0.07 < tenth < 0.17
    assert 0.42 < half < 0.54
    assert 0.82 < nine_tenths < 0.95


@pytest.mark.parametrize("site", ["north", "west"])
def test_weights_of_an_enriched_population_reproduce_the_natural_one(site: str) -> None:
    cases, share = enriched(site), SITES[site].ap_share
    has, weight = labels(cases), np.array([case.weight for case in cases])
    assert has.sum(axis=0).min() >= 60
    assert len(by_patient(cases)) == len(cases)
    assert weight.min() > 0
    assert weight.sum() == pytest.approx(len(cases))
    wanted = list(prevalence.prevalence(share).values())
    assert np.allclose(np.average(has, axis=0, weights=weight), wanted, rtol=1e-3)
    assert np.average([case.view == "AP" for case in cases], weights=weight) == pytest.approx(share, rel=1e-3)
    normal, naturally = ~has.any(axis=1), ~labels(natural(site)).any(axis=1)
    assert np.average(normal, weights=weight) == pytest.approx(naturally.mean(), abs=0.03)


def test_an_enriched_population_without_enrichment_is_a_natural_one() -> None:
    weight = np.array([case.weight for case in population.enriched_cases("east", 5000, seed=2, per_finding=0)])
    assert weight.std() < 0.1


def test_too_many_cases_per_finding_are_refused() -> None:
    with pytest.raises(PermanentError, match="cannot hold 30 of each"):
        population.enriched_cases("north", 100, seed=1, per_finding=30)


def test_a_seed_determines_the_cases_and_sites_and_kinds_share_no_patient() -> None:
    assert population.natural_cases("lake", 50, seed=3) == population.natural_cases("lake", 50, seed=3)
    assert population.natural_cases("lake", 50, seed=3) != population.natural_cases("lake", 50, seed=4)
    seeds = [{case.body.seed for case in population.natural_cases(site, 200, seed=3)} for site in SITES]
    assert len(set().union(*seeds)) == sum(map(len, seeds))
    assert not {case.patient for case in natural("north")} & {case.patient for case in enriched("north")}
    assert len({case.key for case in natural("north")}) == len(natural("north")) == 12_000


def test_a_site_may_be_older() -> None:
    older = np.mean([case.age for case in natural("west")]) - np.mean([case.age for case in natural("north")])
    assert 3 < older < 9


def test_the_film_of_a_case_is_determined_by_the_case() -> None:
    case = next(case for case in enriched("south") if "Effusion" in case.findings)
    one, again = population.take_film(case, size=TINY), population.take_film(case, size=TINY)
    assert np.array_equal(one.pixels, again.pixels)
    assert one.findings == case.findings
    assert one.body is case.body
    assert one.exposure.view == case.view
    assert np.array_equal(
        one.pixels,
        phantom.take_frontal(
            case.seed, body=case.body, view=case.view, findings=case.findings, size=TINY, site=SITES["south"]
        ).pixels,
    )


def test_two_processes_give_the_films_of_one_in_the_same_order() -> None:
    cases = natural("north")[:10]
    one = [film.pixels for film in population.take_films(cases, size=TINY, workers=1)]
    two = [film.pixels for film in population.take_films(cases, size=TINY, workers=2)]
    assert len(one) == len(two) == len(cases)
    assert all(np.array_equal(left, right) for left, right in zip(one, two, strict=True))


def test_iteration_may_stop_early_and_errors_propagate() -> None:
    made = map_in_processes(RECIPROCAL, [1, 2, 4, 5, 8, 10, 16, 20], workers=2)
    assert [next(made), next(made)] == [1.0, 0.5]
    made.close()
    with pytest.raises(ZeroDivisionError):
        list(map_in_processes(RECIPROCAL, [1, 2, 3, 4, 0, 5], workers=2))
