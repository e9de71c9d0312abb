"""Phantom films as a source: two populations, deterministic films, weights that undo the enrichment."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from adapters.experiment.case_source import CaseSource
from adapters.experiment.phantom_source import (
    DEFAULT_SIZES,
    PHANTOM_NOTE,
    SEEN_SITE_NOTE,
    PhantomSizes,
    natural_source,
    phantom_source,
)
from adapters.simulator.sites import PRETRAINING_SITES, UNSEEN_SITE
from models.evaluation.cases import PRESENT
from pipeline.errors import PermanentError

SMALL = PhantomSizes.scaled(80, 60, 48)


@pytest.fixture(scope="module")
def source() -> CaseSource:
    return phantom_source(sizes=SMALL, workers=1)


def test_no_patient_is_on_both_sides_and_both_have_every_finding(source: CaseSource) -> None:
    split = source.split(source.cases)
    assert (len(split.pool), len(split.test)) == (80, 60)
    assert not set(source.cases.patient[split.pool]) & set(source.cases.patient[split.test])
    for rows, least in ((split.pool, SMALL.pool_positives), (split.test, SMALL.test_positives)):
        assert ((source.cases.labels[rows] == PRESENT).sum(axis=0) >= least).all()
        assert source.cases.weight[rows].sum() == pytest.approx(len(rows), rel=1e-3)


def test_a_film_is_the_same_read_singly_and_in_a_stream(source: CaseSource) -> None:
    streamed = list(source.map_films(range(3, 6), lambda image: image, workers=1))
    assert all((one == source.read_film(row)).all() for one, row in zip(streamed, range(3, 6), strict=True))
    assert streamed[0].shape == (48, 48)
    assert streamed[0].dtype == np.float32


def test_sides_do_not_share_films(source: CaseSource) -> None:
    keys = source.cases.key.tolist()
    assert len(set(keys)) == len(keys)
    assert (source.read_film(0) != source.read_film(80)).any()


def test_every_option_that_changes_the_films_changes_the_fingerprint(source: CaseSource) -> None:
    assert phantom_source(sizes=SMALL, workers=2).fingerprint == source.fingerprint
    others = [phantom_source(sizes=SMALL._replace(edge=64)), phantom_source(PRETRAINING_SITES[0], SMALL)]
    assert len({source.fingerprint, *(other.fingerprint for other in others)}) == 3


def test_another_film_seed_gives_other_persons_and_films(source: CaseSource) -> None:
    others = [phantom_source(sizes=SMALL, workers=1, film_seed=number) for number in (1, 2)]
    assert len({source.fingerprint, *(other.fingerprint for other in others)}) == 3
    films = {each.read_film(row).tobytes() for each in (source, *others) for row in (0, 1, 80, 81)}
    assert len(films) == 12  # neither a pool's nor a test set's film comes back under another film seed
    assert [each.identity["film_seed"] for each in (source, *others)] == [0, 1, 2]
    assert "film seed" not in source.title
    assert others[0].title.endswith(", film seed 1")
    assert phantom_source(sizes=SMALL, workers=1, film_seed=1).fingerprint == others[0].fingerprint


def test_film_seed_0_gives_the_published_films(source: CaseSource) -> None:
    grid = np.stack([source.read_film(row)[12::12, 12::12] for row in (0, 80)])
    assert grid[0] == pytest.approx(np.array([[0.49, 0.70, 0.53], [0.41, 0.82, 0.69], [0.67, 0.87, 0.74]]), abs=0.01)
    assert grid[1] == pytest.approx(np.array([[0.69, 0.70, 0.56], [0.40, 0.86, 0.44], [0.75, 0.91, 0.37]]), abs=0.01)
    assert source.identity["seeds"] == "171, 172"
    assert natural_source(sizes=SMALL, workers=1).identity["natural"] == 271


def test_a_site_described_in_a_file_is_a_source_of_its_own(tmp_path: Path) -> None:
    described = tmp_path / "harbour.toml"
    described.write_text('name = "harbour"\nbased_on = "west"\nscatter = [0.0, 0.01]\n')
    ours = phantom_source(str(described), SMALL, workers=1)
    assert ours.identity["site"] == "harbour"
    assert "'harbour'" in ours.title
    assert ours.notes == (PHANTOM_NOTE,)
    described.write_text('name = "harbour"\nbased_on = "west"\nscatter = [0.0, 0.02]\n')
    assert phantom_source(str(described), SMALL, workers=1).fingerprint != ours.fingerprint
    assert natural_source(str(described), SMALL, workers=1).identity["site"] == "harbour"


def test_the_notes_state_simulated_films_and_the_training_sites(source: CaseSource) -> None:
    assert source.notes == (PHANTOM_NOTE,)
    assert phantom_source(PRETRAINING_SITES[0], SMALL).notes == (PHANTOM_NOTE, SEEN_SITE_NOTE.format(UNSEEN_SITE))


def test_an_unknown_site_is_refused() -> None:
    with pytest.raises(PermanentError, match="no phantom hospital is called 'moon'") as refused:
        phantom_source("moon", SMALL)
    assert UNSEEN_SITE in refused.value.hint


def test_scaled_sizes_scale_their_positives() -> None:
    assert PhantomSizes.scaled(DEFAULT_SIZES.pool, DEFAULT_SIZES.test, DEFAULT_SIZES.edge) == DEFAULT_SIZES
    assert PhantomSizes.scaled(10_000, 6_000, 256).test_positives == DEFAULT_SIZES.test_positives
    assert PhantomSizes.scaled(250, 150, 256) == PhantomSizes(250, 150, 10, 6, 256)
