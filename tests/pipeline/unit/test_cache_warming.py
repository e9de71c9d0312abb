"""The activation cache: filled by scoring and by idle workers, and used by later versions."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from pipeline import cache_warming, rescore, versions
from pipeline.domain import JobKind, JobState, ModelVersion, Scores, StoredInstance, StudyState, VersionState
from pipeline.errors import NoWeights, OutOfResources
from tests.builders.fakes.models import FakeScorer, FakeScorers
from tests.builders.fakes.versions import a_version
from tests.builders.hospital_in_memory import Hospital


def a_hospital(studies: int, *, room: int = 100) -> Hospital:
    """Studies 1.1, 1.2, ... that were scored and reported before there was a cache. `room`: capacity of the cache, images."""
    made = Hospital()
    for number in range(1, studies + 1):
        made.receive(made.header(f"1.{number}", f"1.{number}.1"))
        made.run()
    assert {study.state for study in made.catalog.tables.studies.values()} == {StudyState.REPORTED}
    made.scorers = FakeScorers(room=room)
    made.pixels.asked.clear()
    return made


def make_warmer(hospital: Hospital) -> cache_warming.CacheWarmer:
    return cache_warming.CacheWarmer(
        catalog=hospital.catalog,
        pixels=hospital.pixels,
        scorer=lambda: versions.load_serving(catalog=hospital.catalog, scorers=hospital.scorers),
        chest=hospital.chest,
    )


def run_all_turns(warmer: cache_warming.CacheWarmer) -> int:
    turns = 0
    while warmer():
        turns += 1
        assert turns < 1000
    return turns


def promote(hospital: Hospital, number: int) -> None:
    with hospital.catalog.begin() as tx:
        tx.versions.add(a_version(number, VersionState.CANDIDATE))
        tx.versions.serve(number)


# scoring


def test_activations_cached_while_scoring_save_the_decoding_later() -> None:
    hospital = Hospital()
    hospital.scorers = FakeScorers(room=10)
    hospital.receive(hospital.header())
    hospital.run()
    first = hospital.catalog.tables.scores["1.1.1", 1]
    hospital.pixels.asked.clear()
    promote(hospital, 2)
    assert rescore.rescore(catalog=hospital.catalog) == 1
    hospital.run()
    assert hospital.pixels.asked == []
    assert hospital.catalog.tables.scores["1.1.1", 2] == pytest.approx(first)


def test_a_partly_cached_study_is_scored_from_cache_and_pixels() -> None:
    hospital = Hospital()
    hospital.scorers = FakeScorers(room=1)
    for number in (1, 2, 3):
        hospital.receive(hospital.header(sop=f"1.1.{number}"))
    hospital.run()
    hospital.pixels.asked.clear()
    promote(hospital, 2)
    rescore.rescore(catalog=hospital.catalog)
    hospital.run()
    assert sorted(hospital.pixels.asked) == ["1.1.2", "1.1.3"]
    assert sorted(uid for uid, number in hospital.catalog.tables.scores if number == 2) == ["1.1.1", "1.1.2", "1.1.3"]


def test_a_cached_image_is_scored_though_its_pixels_are_unreadable() -> None:
    hospital = a_hospital(1)
    run_all_turns(make_warmer(hospital))
    hospital.pixels.broken.add("1.1.1")
    promote(hospital, 2)
    rescore.rescore(catalog=hospital.catalog)
    hospital.run()
    assert ("1.1", 2) in hospital.catalog.tables.predictions
    assert not hospital.jobs(JobState.QUARANTINED)


class PromotingScorers(FakeScorers):
    """Promotes version 2 while version 1 scores: at its cache lookup ("recall"), or at its encoder ("score")."""

    def __init__(self, hospital: Hospital, *, at: str) -> None:
        super().__init__(room=10)
        self._hospital, self._at = hospital, at

    def load(self, version: ModelVersion) -> FakeScorer:
        return InterruptedScorer(self, version)

    def reached(self, point: str) -> None:
        if point == self._at:
            self._at = ""
            promote(self._hospital, 2)


class InterruptedScorer(FakeScorer):
    """A scorer whose scores are its version number / 100."""

    def __init__(self, scorers: PromotingScorers, version: ModelVersion) -> None:
        super().__init__(version, scorers.kept, room=scorers.room)
        self._scorers = scorers

    def score_cached(self, instances: Sequence[StoredInstance]) -> dict[str, Scores]:
        self._scorers.reached("recall")
        return {uid: scores * 0 + self.version.number / 100 for uid, scores in super().score_cached(instances).items()}

    def score(self, images: Sequence[object], instances: Sequence[StoredInstance] = ()) -> Scores:
        self._scorers.reached("score")
        return super().score(images, instances) * 0 + self.version.number / 100  # type: ignore[arg-type]  # images of any type


@pytest.mark.parametrize("at", ["recall", "score"])
def test_a_promotion_during_scoring_mixes_no_versions(at: str) -> None:
    """One image of the study is cached, the other is decoded."""
    hospital = Hospital()
    hospital.scorers = PromotingScorers(hospital, at=at)
    for number in (1, 2):
        hospital.receive(hospital.header(sop=f"1.1.{number}"))
    hospital.scorers.kept[hospital.catalog.tables.instances["1.1.1"].file.sha256] = 0.5
    hospital.run()
    for (uid, version), scores in hospital.catalog.tables.scores.items():
        assert scores == pytest.approx(version / 100), uid
    assert {number for _, number in hospital.catalog.tables.scores} == {1}
    for (_, version), predictions in hospital.catalog.tables.predictions.items():
        assert [prediction.score for prediction in predictions] == pytest.approx([version / 100] * len(predictions))
    rescore.rescore(catalog=hospital.catalog)
    hospital.run()
    assert sorted(uid for uid, number in hospital.catalog.tables.scores if number == 2) == ["1.1.1", "1.1.2"]
    assert {round(p.score, 6) for p in hospital.catalog.tables.predictions["1.1", 2]} == {0.02}


# idle workers


def test_warming_starts_with_the_newest_study_and_a_second_pass_finds_nothing() -> None:
    hospital = a_hospital(9)
    run_all_turns(make_warmer(hospital))
    assert hospital.pixels.asked == [f"1.{number}.1" for number in range(9, 0, -1)]
    run_all_turns(make_warmer(hospital))
    assert len(hospital.pixels.asked) == 9


def test_a_turn_decodes_at_most_a_few_images() -> None:
    hospital = a_hospital(9)
    warmer = make_warmer(hospital)
    while warmer():
        assert len(hospital.pixels.asked) <= cache_warming.INSTANCES_PER_TURN
        hospital.pixels.asked.clear()
    assert len(hospital.scorers.kept) == 9


@pytest.mark.parametrize("kind", [JobKind.SCORE, JobKind.LEARN])
@pytest.mark.parametrize("running", [False, True])
def test_warming_waits_while_score_or_learn_jobs_exist(kind: JobKind, running: bool) -> None:
    hospital = a_hospital(9)
    warmer = make_warmer(hospital)
    assert warmer()
    with hospital.catalog.begin() as tx:
        tx.jobs.put(kind, "1.99")
        if running:
            tx.jobs.claim([kind], worker="w", lease_seconds=60)
    hospital.pixels.asked.clear()
    assert not warmer()
    assert hospital.pixels.asked == []
    hospital.catalog.tables.jobs.clear()
    run_all_turns(warmer)
    assert len(hospital.scorers.kept) == 9


def test_warming_resumes_after_a_stop() -> None:
    hospital = a_hospital(9)
    first = make_warmer(hospital)
    first()
    run_all_turns(make_warmer(hospital))  # another process without the state of the first
    assert sorted(hospital.pixels.asked) == [f"1.{number}.1" for number in range(1, 10)]


def test_lost_activations_are_cached_again_in_the_next_pass() -> None:
    hospital = a_hospital(3)
    warmer = make_warmer(hospital)
    run_all_turns(warmer)
    hospital.scorers.kept.clear()
    assert not warmer()  # the pass is over
    hospital.catalog.tick(cache_warming.PASS_INTERVAL.total_seconds() + 1)
    run_all_turns(warmer)
    assert len(hospital.scorers.kept) == 3


@pytest.mark.parametrize("room", [0, 2])
def test_warming_ends_where_the_cache_is_full(room: int) -> None:
    hospital = a_hospital(5, room=room)
    run_all_turns(make_warmer(hospital))
    assert hospital.pixels.asked == ["1.5.1", "1.4.1"][:room]


def test_an_unreadable_image_is_tried_once_and_the_others_are_cached() -> None:
    hospital = a_hospital(3)
    hospital.pixels.broken.add("1.2.1")
    warmer = make_warmer(hospital)
    run_all_turns(warmer)
    hospital.catalog.tick(cache_warming.PASS_INTERVAL.total_seconds() + 1)
    run_all_turns(warmer)
    assert hospital.pixels.asked == ["1.3.1", "1.2.1", "1.1.1"]
    assert len(hospital.scorers.kept) == 2


def test_warming_raises_no_weights_without_a_serving_version() -> None:
    with pytest.raises(NoWeights):
        make_warmer(Hospital(serving=False))()


# the worker


def test_the_idle_task_runs_while_no_job_is_due() -> None:
    hospital = a_hospital(3)
    hospital.idle_task = make_warmer(hospital)
    hospital.receive(hospital.header("1.9", "1.9.1"))
    hospital.catalog.tick(61)
    hospital.settle()
    assert hospital.work_once(JobKind.SCORE) == 1
    assert hospital.pixels.asked == ["1.9.1"]
    assert hospital.work_once(JobKind.SCORE) == 1
    assert len(hospital.scorers.kept) == 4


def test_an_error_of_the_idle_task_fails_no_job(caplog: pytest.LogCaptureFixture) -> None:
    hospital = a_hospital(1)

    def raise_foreign_error() -> bool:
        raise ZeroDivisionError("patient^name")

    hospital.idle_task = raise_foreign_error
    assert hospital.work_once(JobKind.SCORE) == 0
    assert "idle task failed" in caplog.text
    assert "patient" not in caplog.text

    def raise_unreachable() -> bool:
        raise OutOfResources("the catalog is unreachable")

    hospital.idle_task = raise_unreachable
    with pytest.raises(OutOfResources):
        hospital.work_once(JobKind.SCORE)
