"""The number of jobs that a worker claims at once."""

from __future__ import annotations

from pipeline.work import ClaimSizer


def test_the_first_claim_is_one_batch_and_claims_of_fast_jobs_grow_up_to_the_limit() -> None:
    sizer = ClaimSizer(target_seconds=1.0, min_jobs=8, max_jobs=32)
    assert sizer.limit == 8
    sizer.record_batch(8, 0.4)
    assert sizer.limit == 20
    sizer.record_batch(20, 0.2)
    sizer.record_batch(32, 0.32)
    assert sizer.limit == 32


def test_slow_jobs_are_claimed_one_at_a_time_and_a_slow_first_batch_loses_its_weight() -> None:
    sizer = ClaimSizer(target_seconds=1.0, min_jobs=8, max_jobs=32)
    sizer.record_batch(8, 60.0)
    assert sizer.limit == 1
    for _ in range(10):
        sizer.record_batch(1, 0.05)
    assert sizer.limit > 10


def test_half_of_each_claim_is_the_newest_jobs_and_single_job_claims_alternate() -> None:
    sizer = ClaimSizer(target_seconds=1.0, min_jobs=8, max_jobs=32)
    assert [sizer.newest_limit(8) for _ in range(3)] == [4, 4, 4]
    assert [sizer.newest_limit(1) for _ in range(4)] == [0, 1, 0, 1]
    assert sorted(sizer.newest_limit(5) for _ in range(2)) == [2, 3]
