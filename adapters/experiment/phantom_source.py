"""Source: phantom films of one simulated hospital, a pool and a test set without common patients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from adapters.experiment.case_source import CaseSource, build_cases, build_labels
from adapters.ml.error_translation import translate_model_errors
from adapters.simulator import population
from adapters.simulator.sites import PRETRAINING_SITES, SITES, UNSEEN_SITE
from models.evaluation.cases import Cases, Split
from models.experiment.splits import check_split
from pipeline.domain import Image
from pipeline.errors import PermanentError

PHANTOM_NOTE = (
    "These are simulated films: no patient was X-rayed. Figures on phantoms say how methods compare in a world of known truth, "
    "and nothing about how any of them does on people."
)


class PhantomSizes(NamedTuple):
    """Numbers and size of films, and minimum positives of each finding."""

    pool: int = 2500
    test: int = 1500
    pool_positives: int = 100
    test_positives: int = 60
    edge: int = 256  # pixels of a film's edge

    @classmethod
    def scaled(cls, pool: int, test: int, edge: int) -> PhantomSizes:
        """Return sizes with positives proportional to the films, at most those of the default sizes."""
        default = DEFAULT_SIZES
        return cls(
            pool=pool,
            test=test,
            pool_positives=min(default.pool_positives, pool * default.pool_positives // default.pool),
            test_positives=min(default.test_positives, test * default.test_positives // default.test),
            edge=edge,
        )


DEFAULT_SIZES = PhantomSizes()
POOL_SEED, TEST_SEED = 171, 172
"""Seeds of the two populations. Fixed: another seed of the experiment draws other supports from the same films."""
NATURAL_SEED = 271
"""Seed of the natural population; its test set has the next one."""
STUDIES_PER_PATIENT = 6
"""Studies drawn per wanted patient: a natural population has fewer studies per patient on average."""
SEEN_SITE_NOTE = (
    "The demonstration model was trained on other films of this site: it is no shift to it. The site that it has not seen is {}."
)


def phantom_source(site: str = UNSEEN_SITE, sizes: PhantomSizes = DEFAULT_SIZES, *, workers: int = 2) -> CaseSource:
    """Return films of a site, rendered on demand by `workers` processes. PermanentError for an unknown site.

    Both sides are enriched in rare findings; the weights of the cases undo the enrichment. One film per person.
    """
    _require_known_site(site)
    pool = population.enriched_cases(site, sizes.pool, seed=POOL_SEED, per_finding=sizes.pool_positives)
    return _build_source(site, pool, sizes, {"seeds": f"{POOL_SEED}, {TEST_SEED}", **sizes._asdict()}, workers)


def natural_source(
    site: str = UNSEEN_SITE, sizes: PhantomSizes = DEFAULT_SIZES, *, workers: int = 2, seed: int = NATURAL_SEED
) -> CaseSource:
    """Return the first film of each person of a site, at natural prevalences, and an enriched test set.

    `sizes.pool_positives` is ignored. Another `seed` gives other persons on both sides. PermanentError for an unknown site.
    """
    _require_known_site(site)
    natural_cases = population.natural_cases(site, STUDIES_PER_PATIENT * sizes.pool, seed=seed)
    pool = [case for case in natural_cases if case.visit == 0][: sizes.pool]
    kept = {name: size for name, size in sizes._asdict().items() if name != "pool_positives"}
    return _build_source(site, pool, sizes, {"natural": seed, "first films": len(pool), **kept}, workers, test_seed=seed + 1)


def _require_known_site(site: str) -> None:
    if site not in SITES:
        raise PermanentError(f"no phantom hospital is called {site!r}", hint=f"choose from {', '.join(sorted(SITES))}")


def _build_source(
    site: str,
    pool: Sequence[population.Case],
    sizes: PhantomSizes,
    identity: Mapping[str, Any],
    workers: int,
    *,
    test_seed: int = TEST_SEED,
) -> CaseSource:
    test = population.enriched_cases(site, sizes.test, seed=test_seed, per_finding=sizes.test_positives)
    everyone = [*pool, *test]
    size = (sizes.edge, sizes.edge)

    def film(row: int) -> Image:
        return population.take_film(everyone[row], size=size).pixels

    def stream(rows: range) -> Iterator[Image]:
        taken = population.take_films(everyone[rows.start : rows.stop], size=size, workers=workers)
        return (each.pixels for each in taken)

    def split(cases: Cases) -> Split:
        with translate_model_errors():
            return check_split(cases, Split(pool=np.arange(len(pool)), test=np.arange(len(pool), len(everyone))))

    return CaseSource(
        kind="phantom",
        title=f"phantom films of the site {site!r}: {len(pool)} to learn from, {len(test)} tested, one a person",
        cases=_build_phantom_cases(pool, test),
        identity={"site": site, **identity},
        read_film=film,
        split=split,
        split_description="two populations of other persons",
        read_films=stream,
        notes=(PHANTOM_NOTE, SEEN_SITE_NOTE.format(UNSEEN_SITE)) if site in PRETRAINING_SITES else (PHANTOM_NOTE,),
    )


def _build_phantom_cases(pool: Sequence[population.Case], test: Sequence[population.Case]) -> Cases:
    """Build the cases, with the side in every name: both populations number their patients alike."""
    sided = [("pool", case) for case in pool] + [("test", case) for case in test]
    return build_cases(
        key=[f"{side}/{case.key}" for side, case in sided],
        patient=[f"{side}/{case.patient}" for side, case in sided],
        labels=build_labels([frozenset(case.findings) for _, case in sided]),
        age=[case.age for _, case in sided],
        sex=[case.sex for _, case in sided],
        view=[case.view for _, case in sided],
        weight=[case.weight for _, case in sided],
    )
