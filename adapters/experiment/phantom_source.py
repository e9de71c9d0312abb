"""Source: phantom films of one simulated hospital, a pool and a test set without common patients."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from adapters.experiment.case_source import CaseSource, build_cases, build_labels
from adapters.ml.error_translation import translate_model_errors
from adapters.simulator import population
from adapters.simulator.site_file import choose_site
from adapters.simulator.sites import PRETRAINING_SITES, UNSEEN_SITE, Site
from models.evaluation.cases import Cases, Split
from models.experiment.splits import check_split
from models.fingerprint import fingerprint
from pipeline.domain import Image

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
"""Seeds of the two populations for film seed 0. The seed of the experiment draws supports from them, and changes no film."""
NATURAL_SEED = 271
"""Seed of the natural population for film seed 0; its test set has the next one."""
SEEDS_PER_FILM_SEED = 2
"""Seeds of populations per film seed: one for each side, so that no two film seeds share one."""
STUDIES_PER_PATIENT = 6
"""Studies drawn per wanted patient: a natural population has fewer studies per patient on average."""
SEEN_SITE_NOTE = (
    "The demonstration model was trained on other films of this site: it is no shift to it. The site that it has not seen is {}."
)


def phantom_source(
    site: str = UNSEEN_SITE, sizes: PhantomSizes = DEFAULT_SIZES, *, workers: int = 2, film_seed: int = 0
) -> CaseSource:
    """Return films of a site, rendered on demand by `workers` processes. `site`: a name, or a file that describes a site.

    Both sides are enriched in rare findings; the weights of the cases undo the enrichment. One film per person. Another
    `film_seed` gives other persons on both sides. PermanentError for an unknown site.
    """
    hospital, shift = choose_site(site), SEEDS_PER_FILM_SEED * film_seed
    pool = population.enriched_cases(hospital, sizes.pool, seed=POOL_SEED + shift, per_finding=sizes.pool_positives)
    identity = {"seeds": f"{POOL_SEED + shift}, {TEST_SEED + shift}", **sizes._asdict()}
    return _build_source(hospital, pool, sizes, identity, workers, film_seed=film_seed, test_seed=TEST_SEED + shift)


def natural_source(
    site: str = UNSEEN_SITE, sizes: PhantomSizes = DEFAULT_SIZES, *, workers: int = 2, film_seed: int = 0
) -> CaseSource:
    """Return the first film of each person of a site, at natural prevalences, and an enriched test set.

    `sizes.pool_positives` is ignored; the rest is as for `phantom_source`.
    """
    hospital, seed = choose_site(site), NATURAL_SEED + SEEDS_PER_FILM_SEED * film_seed
    natural_cases = population.natural_cases(hospital, STUDIES_PER_PATIENT * sizes.pool, seed=seed)
    pool = [case for case in natural_cases if case.visit == 0][: sizes.pool]
    kept = {name: size for name, size in sizes._asdict().items() if name != "pool_positives"}
    identity = {"natural": seed, "first films": len(pool), **kept}
    return _build_source(hospital, pool, sizes, identity, workers, film_seed=film_seed, test_seed=seed + 1)


def _build_source(
    site: Site,
    pool: Sequence[population.Case],
    sizes: PhantomSizes,
    identity: Mapping[str, Any],
    workers: int,
    *,
    film_seed: int,
    test_seed: int,
) -> CaseSource:
    test = population.enriched_cases(site, sizes.test, seed=test_seed, per_finding=sizes.test_positives)
    everyone = [*pool, *test]
    size = (sizes.edge, sizes.edge)

    def film(row: int) -> Image:
        return population.take_film(everyone[row], size=size).pixels

    def stream(rows: Sequence[int]) -> Iterator[Image]:
        taken = population.take_films([everyone[row] for row in rows], size=size, workers=workers)
        return (each.pixels for each in taken)

    def split(cases: Cases) -> Split:
        with translate_model_errors():
            return check_split(cases, Split(pool=np.arange(len(pool)), test=np.arange(len(pool), len(everyone))))

    seeded = f", film seed {film_seed}" if film_seed else ""
    return CaseSource(
        kind="phantom",
        title=f"phantom films of the site {site.name!r}: {len(pool)} to learn from, {len(test)} tested, one a person{seeded}",
        cases=_build_phantom_cases(pool, test),
        identity={"site": site.name, "site_sha256": site.fingerprint, "film_seed": film_seed, **identity},
        film_keys=_identify_films(everyone, site, sizes.edge),
        read_film=film,
        split=split,
        split_description="two populations of other persons",
        read_films=stream,
        notes=(PHANTOM_NOTE, SEEN_SITE_NOTE.format(UNSEEN_SITE)) if site.name in PRETRAINING_SITES else (PHANTOM_NOTE,),
    )


def _identify_films(cases: Sequence[population.Case], site: Site, edge: int) -> list[str]:
    """Return a fingerprint of everything that a film is rendered from."""
    look = site.fingerprint
    return [
        fingerprint([look, edge, case.seed, case.view, [*case.findings.items()], dataclasses.asdict(case.body)]) for case in cases
    ]


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
