"""An archive scored block by block, on fakes: jobs run, jobs left to other workers, and the loss of a machine."""

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
        made.receive(made.header(f"1.{number}", f"1.{number}.1"))
    made.catalog.tick(61)
    made.settle()
    return made


def score_block_of(hospital: Hospital, block: StudyBlock) -> BlockResult:
    return archive_scoring.score_block(
        block, spec=hospital.worker_spec(JobKind.SCORE), catalog=hospital.catalog, worker="node", policy=hospital.work
    )


def scored_studies(hospital: Hospital) -> set[str]:
    return {uid for uid, _ in hospital.catalog.tables.predictions}


def test_blocks_cover_every_study_once_newest_first() -> None:
    blocks = list(archive_scoring.cut_blocks(catalog=a_hospital(10).catalog, size=4))
    assert blocks == [StudyBlock(7, 10), StudyBlock(3, 6), StudyBlock(1, 2)]
    assert list(archive_scoring.cut_blocks(catalog=Hospital().catalog)) == []


def test_a_block_scores_its_own_studies_and_no_others() -> None:
    hospital = a_hospital(5)
    assert score_block_of(hospital, StudyBlock(2, 3)) == BlockResult(2, 0)
    assert scored_studies(hospital) == {"1.2", "1.3"}
    assert score_block_of(hospital, StudyBlock(2, 3)) == BlockResult(0, 0)


def test_scoring_by_blocks_gives_the_same_result_as_the_queue() -> None:
    by_blocks, by_queue = a_hospital(5), a_hospital(5)
    for block in archive_scoring.cut_blocks(catalog=by_blocks.catalog, size=2):
        score_block_of(by_blocks, block)
    by_blocks.run()
    by_queue.run()
    assert by_blocks.catalog.tables.predictions == by_queue.catalog.tables.predictions
    assert len(by_blocks.archive.kept) == len(by_queue.archive.kept) == 5


def test_a_block_rescores_studies_of_another_version_and_skips_arriving_ones() -> None:
    hospital = a_hospital(3)
    hospital.run()
    hospital.receive(hospital.header("1.9", "1.9.1"))
    with hospital.catalog.begin() as tx:
        tx.versions.add(a_version(2, VersionState.CANDIDATE))
        tx.versions.serve(2)
    assert score_block_of(hospital, StudyBlock(1, 9)) == BlockResult(3, 0)
    assert {uid for uid, version in hospital.catalog.tables.predictions if version == 2} == {"1.1", "1.2", "1.3"}
    assert hospital.study("1.9").state is StudyState.ARRIVING
    assert len(hospital.archive.kept) == 3  # unchanged, so not reported again


def test_jobs_of_a_lost_machine_become_free_when_their_leases_expire() -> None:
    hospital = a_hospital(3)
    with hospital.catalog.begin() as tx:
        tx.jobs.claim([JobKind.SCORE], worker="lost", lease_seconds=60, subjects=["1.2"])
    assert score_block_of(hospital, StudyBlock(1, 3)) == BlockResult(2, 1)
    hospital.catalog.tick(61)
    assert score_block_of(hospital, StudyBlock(1, 3)) == BlockResult(1, 0)
    assert scored_studies(hospital) == {"1.1", "1.2", "1.3"}


def test_an_unreadable_image_is_quarantined_as_in_the_queue() -> None:
    hospital = a_hospital(2)
    hospital.pixels.broken.add("1.1.1")
    assert score_block_of(hospital, StudyBlock(1, 2)) == BlockResult(2, 0)
    assert [job.subject for job in hospital.jobs(JobState.QUARANTINED)] == ["1.1"]
    assert score_block_of(hospital, StudyBlock(1, 2)) == BlockResult(0, 0)


def test_without_a_serving_version_no_block_is_scored() -> None:
    with pytest.raises(NoWeights):
        score_block_of(Hospital(serving=False), StudyBlock(1, 2))


def test_a_block_warms_the_cache_for_studies_scored_before() -> None:
    hospital = a_hospital(3)
    hospital.run()
    hospital.scorers = FakeScorers(room=10)
    warmer = cache_warming.CacheWarmer(
        catalog=hospital.catalog,
        pixels=hospital.pixels,
        scorer=lambda: versions.load_serving(catalog=hospital.catalog, scorers=hospital.scorers),
        chest=hospital.chest,
    )
    hospital.pixels.asked.clear()
    for _ in range(2):
        archive_scoring.score_block(
            StudyBlock(2, 3),
            spec=replace(hospital.worker_spec(JobKind.SCORE), idle_task=lambda: pytest.fail("a block runs no idle task")),
            catalog=hospital.catalog,
            worker="node",
            policy=hospital.work,
            warm_cache=warmer.warm_studies,
        )
    assert sorted(hospital.pixels.asked) == ["1.2.1", "1.3.1"]
