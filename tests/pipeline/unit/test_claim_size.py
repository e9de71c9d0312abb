from __future__ import annotations

from pipeline.work import ClaimSizer


def test_the_first_turn_is_one_batch_and_quick_jobs_fill_a_turn_up_to_its_bound() -> None:
    pace = ClaimSizer(target_seconds=1.0, min_jobs=8, max_jobs=32)
    assert pace.limit == 8
    pace.record_batch(8, 0.4)
    assert pace.limit == 20
    pace.record_batch(20, 0.2)
    pace.record_batch(32, 0.32)
    assert pace.limit == 32


def test_a_turn_of_slow_jobs_is_one_of_them_and_a_slow_first_turn_is_forgotten() -> None:
    pace = ClaimSizer(target_seconds=1.0, min_jobs=8, max_jobs=32)
    pace.record_batch(8, 60.0)
    assert pace.limit == 1
    for _ in range(10):
        pace.record_batch(1, 0.05)
    assert pace.limit > 10


def test_half_of_what_is_taken_came_last_and_of_one_job_every_other() -> None:
    pace = ClaimSizer(target_seconds=1.0, min_jobs=8, max_jobs=32)
    assert [pace.newest_limit(8) for _ in range(3)] == [4, 4, 4]
    assert [pace.newest_limit(1) for _ in range(4)] == [0, 1, 0, 1]
    assert sorted(pace.newest_limit(5) for _ in range(2)) == [2, 3]
