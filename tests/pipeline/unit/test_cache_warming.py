"""What is kept of films so that a later version scores them without their pixels: by scoring in passing, and in spare time."""

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
    """Studies 1.1, 1.2, ... that were scored and reported before anything was kept."""
    made = Hospital()
    for number in range(1, studies + 1):
        made.receive(made.film(f"1.{number}", f"1.{number}.1"))
        made.run()
    assert {study.state for study in made.catalog.tables.studies.values()} == {StudyState.REPORTED}
    made.scorers = FakeScorers(room=room)
    made.pixels.asked.clear()
    return made


def filler(hospital: Hospital) -> cache_warming.CacheWarmer:
    return cache_warming.CacheWarmer(
        catalog=hospital.catalog,
        pixels=hospital.pixels,
        scorer=lambda: versions.load_serving(catalog=hospital.catalog, scorers=hospital.scorers),
        chest=hospital.chest,
    )


def to_the_end(walk: cache_warming.CacheWarmer) -> int:
    turns = 0
    while walk():
        turns += 1
        assert turns < 1000
    return turns


def promote(hospital: Hospital, number: int) -> None:
    with hospital.catalog.begin() as tx:
        tx.versions.add(a_version(number, VersionState.CANDIDATE))
        tx.versions.serve(number)


# scoring


def test_what_scoring_keeps_in_passing_spares_the_pixels_later() -> None:
    hospital = Hospital()
    hospital.scorers = FakeScorers(room=10)
    hospital.receive(hospital.film())
    hospital.run()
    first = hospital.catalog.tables.scores["1.1.1", 1]
    hospital.pixels.asked.clear()
    promote(hospital, 2)
    assert rescore.rescore(catalog=hospital.catalog) == 1
    hospital.run()
    assert hospital.pixels.asked == []
    assert hospital.catalog.tables.scores["1.1.1", 2] == pytest.approx(first)


def test_a_study_of_which_only_some_is_kept_is_scored_by_both_ways_at_once() -> None:
    hospital = Hospital()
    hospital.scorers = FakeScorers(room=1)
    for number in (1, 2, 3):
        hospital.receive(hospital.film(sop=f"1.1.{number}"))
    hospital.run()
    hospital.pixels.asked.clear()
    promote(hospital, 2)
    rescore.rescore(catalog=hospital.catalog)
    hospital.run()
    assert sorted(hospital.pixels.asked) == ["1.1.2", "1.1.3"]
    assert sorted(uid for uid, number in hospital.catalog.tables.scores if number == 2) == ["1.1.1", "1.1.2", "1.1.3"]


def test_a_kept_film_is_scored_though_its_pixels_have_gone_bad() -> None:
    hospital = a_hospital(1)
    to_the_end(filler(hospital))
    hospital.pixels.broken.add("1.1.1")
    promote(hospital, 2)
    rescore.rescore(catalog=hospital.catalog)
    hospital.run()
    assert ("1.1", 2) in hospital.catalog.tables.predictions
    assert not hospital.jobs(JobState.QUARANTINED)


class _PromotedMeanwhile(FakeScorers):
    """Another version comes to serve while this one is at work: at the store, or at the pixels."""

    def __init__(self, hospital: Hospital, *, at: str) -> None:
        super().__init__(room=10)
        self._hospital, self._at = hospital, at

    def load(self, version: ModelVersion) -> FakeScorer:
        return _Interrupted(self, version)

    def reached(self, place: str) -> None:
        if place == self._at:
            self._at = ""
            promote(self._hospital, 2)


class _Interrupted(FakeScorer):
    """Its scores tell which version it is: one hundredth for each."""

    def __init__(self, scorers: _PromotedMeanwhile, version: ModelVersion) -> None:
        super().__init__(version, scorers.kept, room=scorers.room)
        self._scorers = scorers

    def score_cached(self, instances: Sequence[StoredInstance]) -> dict[str, Scores]:
        self._scorers.reached("recall")
        return {uid: scores * 0 + self.version.number / 100 for uid, scores in super().score_cached(instances).items()}

    def score(self, images: Sequence[object], instances: Sequence[StoredInstance] = ()) -> Scores:
        self._scorers.reached("score")
        return super().score(images, instances) * 0 + self.version.number / 100  # type: ignore[arg-type]  # images all the same


@pytest.mark.parametrize("at", ["recall", "score"])
def test_a_promotion_in_the_middle_of_scoring_mixes_no_versions(at: str) -> None:
    """One film of the study is kept, the other is read."""
    hospital = Hospital()
    hospital.scorers = _PromotedMeanwhile(hospital, at=at)
    for number in (1, 2):
        hospital.receive(hospital.film(sop=f"1.1.{number}"))
    hospital.scorers.kept[hospital.catalog.tables.instances["1.1.1"].file.sha256] = 0.5
    hospital.run()
    for (uid, version), scores in hospital.catalog.tables.scores.items():
        assert scores == pytest.approx(version / 100), uid
    assert {number for _, number in hospital.catalog.tables.scores} == {1}
    for (_, version), predictions in hospital.catalog.tables.predictions.items():
        assert [prediction.probability for prediction in predictions] == pytest.approx([version / 100] * len(predictions))
    rescore.rescore(catalog=hospital.catalog)
    hospital.run()
    assert sorted(uid for uid, number in hospital.catalog.tables.scores if number == 2) == ["1.1.1", "1.1.2"]
    assert {round(p.probability, 6) for p in hospital.catalog.tables.predictions["1.1", 2]} == {0.02}


# spare time


def test_the_newest_come_first_and_a_second_walk_finds_nothing() -> None:
    hospital = a_hospital(9)
    to_the_end(filler(hospital))
    assert hospital.pixels.asked == [f"1.{number}.1" for number in range(9, 0, -1)]
    to_the_end(filler(hospital))
    assert len(hospital.pixels.asked) == 9


def test_a_turn_reads_few_films() -> None:
    hospital = a_hospital(9)
    walk = filler(hospital)
    while walk():
        assert len(hospital.pixels.asked) <= cache_warming.INSTANCES_PER_TURN
        hospital.pixels.asked.clear()
    assert len(hospital.scorers.kept) == 9


@pytest.mark.parametrize("kind", [JobKind.SCORE, JobKind.LEARN])
@pytest.mark.parametrize("running", [False, True])
def test_it_waits_while_there_is_other_work(kind: JobKind, running: bool) -> None:
    hospital = a_hospital(9)
    walk = filler(hospital)
    assert walk()
    with hospital.catalog.begin() as tx:
        tx.jobs.put(kind, "1.99")
        if running:
            tx.jobs.claim([kind], worker="w", lease_seconds=60)
    hospital.pixels.asked.clear()
    assert not walk()
    assert hospital.pixels.asked == []
    hospital.catalog.tables.jobs.clear()
    to_the_end(walk)
    assert len(hospital.scorers.kept) == 9


def test_it_goes_on_where_it_was_stopped() -> None:
    hospital = a_hospital(9)
    first = filler(hospital)
    first()
    to_the_end(filler(hospital))  # another process, that knows nothing of the first
    assert sorted(hospital.pixels.asked) == [f"1.{number}.1" for number in range(1, 10)]


def test_what_is_lost_is_made_again_at_the_next_walk() -> None:
    hospital = a_hospital(3)
    walk = filler(hospital)
    to_the_end(walk)
    hospital.scorers.kept.clear()
    assert not walk()  # it rests
    hospital.catalog.tick(cache_warming.PASS_INTERVAL.total_seconds() + 1)
    to_the_end(walk)
    assert len(hospital.scorers.kept) == 3


@pytest.mark.parametrize("room", [0, 2])
def test_it_ends_where_there_is_no_room(room: int) -> None:
    hospital = a_hospital(5, room=room)
    to_the_end(filler(hospital))
    assert hospital.pixels.asked == ["1.5.1", "1.4.1"][:room]


def test_a_film_that_cannot_be_read_is_tried_once_and_the_others_are_kept() -> None:
    hospital = a_hospital(3)
    hospital.pixels.broken.add("1.2.1")
    walk = filler(hospital)
    to_the_end(walk)
    hospital.catalog.tick(cache_warming.PASS_INTERVAL.total_seconds() + 1)
    to_the_end(walk)
    assert hospital.pixels.asked == ["1.3.1", "1.2.1", "1.1.1"]
    assert len(hospital.scorers.kept) == 2


def test_without_a_version_it_says_so() -> None:
    with pytest.raises(NoWeights):
        filler(Hospital(serving=False))()


# the worker


def test_spare_time_begins_where_no_job_is_due() -> None:
    hospital = a_hospital(3)
    hospital.spare = filler(hospital)
    hospital.receive(hospital.film("1.9", "1.9.1"))
    hospital.catalog.tick(61)
    hospital.settle()
    assert hospital.work_once(JobKind.SCORE) == 1
    assert hospital.pixels.asked == ["1.9.1"]
    assert hospital.work_once(JobKind.SCORE) == 1
    assert len(hospital.scorers.kept) == 4


def test_trouble_in_spare_time_is_nobodys_job(caplog: pytest.LogCaptureFixture) -> None:
    hospital = a_hospital(1)

    def broken() -> bool:
        raise ZeroDivisionError("patient^name")

    hospital.spare = broken
    assert hospital.work_once(JobKind.SCORE) == 0
    assert "idle task failed" in caplog.text
    assert "patient" not in caplog.text

    def away() -> bool:
        raise OutOfResources("the catalog is away")

    hospital.spare = away
    with pytest.raises(OutOfResources):
        hospital.work_once(JobKind.SCORE)
