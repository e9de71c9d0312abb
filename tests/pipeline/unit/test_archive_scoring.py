"""An archive scored block by block, on fakes: what is done, what is left to others, and what a lost machine costs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipeline import archive_scoring, cache_warming, versions
from pipeline.archive_scoring import BlockResult, StudyBlock
from pipeline.domain import JobKind, JobState, StudyState, VersionState
from pipeline.errors import NoWeights
from tests.builders.fakes.models import FakeScorers
from tests.builders.fakes.versions import a_version
from tests.builders.hospital_in_memory import Hospital


def a_hospital(studies: int) -> Hospital:
    """Studies 1.1, 1.2, ... that wait for their scores."""
    made = Hospital()
    for number in range(1, studies + 1):
        made.receive(made.film(f"1.{number}", f"1.{number}.1"))
    made.catalog.tick(61)
    made.settle()
    return made


def score(hospital: Hospital, block: StudyBlock) -> BlockResult:
    return archive_scoring.score_block(
        block, spec=hospital.post(JobKind.SCORE), catalog=hospital.catalog, worker="node", policy=hospital.work
    )


def predicted(hospital: Hospital) -> set[str]:
    return {uid for uid, _ in hospital.catalog.tables.predictions}


def test_blocks_cover_every_study_once_newest_first() -> None:
    found = list(archive_scoring.cut_blocks(catalog=a_hospital(10).catalog, size=4))
    assert found == [StudyBlock(7, 10), StudyBlock(3, 6), StudyBlock(1, 2)]
    assert list(archive_scoring.cut_blocks(catalog=Hospital().catalog)) == []


def test_a_block_scores_its_own_studies_and_no_others() -> None:
    hospital = a_hospital(5)
    assert score(hospital, StudyBlock(2, 3)) == BlockResult(2, 0)
    assert predicted(hospital) == {"1.2", "1.3"}
    assert score(hospital, StudyBlock(2, 3)) == BlockResult(0, 0)


def test_blocks_and_the_queue_come_to_the_same() -> None:
    by_blocks, by_queue = a_hospital(5), a_hospital(5)
    for block in archive_scoring.cut_blocks(catalog=by_blocks.catalog, size=2):
        score(by_blocks, block)
    by_blocks.run()
    by_queue.run()
    assert by_blocks.catalog.tables.predictions == by_queue.catalog.tables.predictions
    assert len(by_blocks.archive.kept) == len(by_queue.archive.kept) == 5


def test_studies_of_another_version_are_scored_again_and_arriving_ones_left() -> None:
    hospital = a_hospital(3)
    hospital.run()
    hospital.receive(hospital.film("1.9", "1.9.1"))
    with hospital.catalog.begin() as tx:
        tx.versions.add(a_version(2, VersionState.CANDIDATE))
        tx.versions.serve(2)
    assert score(hospital, StudyBlock(1, 9)) == BlockResult(3, 0)
    assert {uid for uid, version in hospital.catalog.tables.predictions if version == 2} == {"1.1", "1.2", "1.3"}
    assert hospital.study("1.9").state is StudyState.ARRIVING
    assert len(hospital.archive.kept) == 3  # nothing changed, so nobody is told again


def test_what_a_lost_machine_had_in_hand_is_left_and_comes_free_with_its_lease() -> None:
    hospital = a_hospital(3)
    with hospital.catalog.begin() as tx:
        tx.jobs.claim([JobKind.SCORE], worker="lost", lease_seconds=60, subjects=["1.2"])
    assert score(hospital, StudyBlock(1, 3)) == BlockResult(2, 1)
    hospital.catalog.tick(61)
    assert score(hospital, StudyBlock(1, 3)) == BlockResult(1, 0)
    assert predicted(hospital) == {"1.1", "1.2", "1.3"}


def test_a_film_that_cannot_be_read_is_set_aside_as_in_the_queue() -> None:
    hospital = a_hospital(2)
    hospital.pixels.broken.add("1.1.1")
    assert score(hospital, StudyBlock(1, 2)) == BlockResult(2, 0)
    assert [job.subject for job in hospital.jobs(JobState.QUARANTINED)] == ["1.1"]
    assert score(hospital, StudyBlock(1, 2)) == BlockResult(0, 0)


def test_without_a_version_nothing_is_scored() -> None:
    with pytest.raises(NoWeights):
        score(Hospital(serving=False), StudyBlock(1, 2))


def test_what_was_scored_before_is_filled_in_passing() -> None:
    hospital = a_hospital(3)
    hospital.run()
    hospital.scorers = FakeScorers(room=10)
    filler = cache_warming.CacheWarmer(
        catalog=hospital.catalog,
        pixels=hospital.pixels,
        scorer=lambda: versions.load_serving(catalog=hospital.catalog, scorers=hospital.scorers),
        chest=hospital.chest,
    )
    hospital.pixels.asked.clear()
    for _ in range(2):
        archive_scoring.score_block(
            StudyBlock(2, 3),
            spec=replace(hospital.post(JobKind.SCORE), idle_task=lambda: pytest.fail("a block has no spare time")),
            catalog=hospital.catalog,
            worker="node",
            policy=hospital.work,
            warm_cache=filler.warm_studies,
        )
    assert sorted(hospital.pixels.asked) == ["1.2.1", "1.3.1"]
