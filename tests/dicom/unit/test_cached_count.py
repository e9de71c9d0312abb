from __future__ import annotations

from adapters.dicom.network.archive import CachedInstanceCounter
from tests.builders.fakes.reports import FakeArchive


class CountingArchive(FakeArchive):
    """Records its queries."""

    def __init__(self) -> None:
        super().__init__()
        self.queried: list[str] = []

    def count_instances(self, study_instance_uid: str) -> int | None:
        self.queried.append(study_instance_uid)
        return self.counts.get(study_instance_uid)


def test_the_instance_count_of_a_study_is_queried_at_most_once_per_interval() -> None:
    now = [100.0]
    archive = CountingArchive()
    counter = CachedInstanceCounter(archive, max_age_seconds=5, clock=lambda: now[0])
    archive.counts = {"1.1": 2}
    assert [counter.count_instances("1.1") for _ in range(10)] == [2] * 10
    assert counter.count_instances("2.2") is None
    assert archive.queried == ["1.1", "2.2"]
    archive.counts["1.1"] = 3
    now[0] += 5
    assert counter.count_instances("1.1") == 3
    assert archive.queried == ["1.1", "2.2", "1.1"]
