"""Films in lanes are scored as without, in order, and torch's threads are afterwards what they were."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from models.encoder.cpu_parallel import MIN_IMAGES_PER_CHUNK, CpuDataParallel


@pytest.fixture
def threads() -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield 2
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("films", "parts"),
    [
        (1, 1),
        (MIN_IMAGES_PER_CHUNK, 1),
        (2 * MIN_IMAGES_PER_CHUNK - 1, 1),
        (2 * MIN_IMAGES_PER_CHUNK, 2),
        (5 * MIN_IMAGES_PER_CHUNK + 3, 2),
    ],
)
def test_parts_come_in_order_and_are_large_enough(threads: int, films: int, parts: int) -> None:
    lanes, pixels = CpuDataParallel(threads), torch.arange(films, dtype=torch.float32)[:, None]
    found = lanes.map_chunks(lambda some: (some * 2, torch.get_num_threads()), pixels)
    assert len(found) == parts
    assert torch.equal(torch.cat([made for made, _ in found]), pixels * 2)
    assert {used for _, used in found} == {threads // parts}
    assert torch.get_num_threads() == threads
    lanes.close()


def test_a_fault_in_a_lane_is_everybodys(threads: int) -> None:
    lanes = CpuDataParallel(threads)

    def faulty(some: torch.Tensor) -> float:
        if some.max() > MIN_IMAGES_PER_CHUNK:
            raise ValueError("not finite")
        return float(some.sum())

    with pytest.raises(ValueError, match="not finite"):
        lanes.map_chunks(faulty, torch.arange(2 * MIN_IMAGES_PER_CHUNK + 2, dtype=torch.float32)[:, None])
    assert torch.get_num_threads() == threads
    lanes.close()


def test_with_one_thread_there_are_no_lanes() -> None:
    lanes = CpuDataParallel(1)
    assert lanes.map_chunks(len, torch.zeros(100, 1)) == [100]
    lanes.close()
