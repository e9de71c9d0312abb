"""Chunked batches give the results of whole ones, in order, and torch's thread count is restored."""

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
    ("images", "chunks"),
    [
        (1, 1),
        (MIN_IMAGES_PER_CHUNK, 1),
        (2 * MIN_IMAGES_PER_CHUNK - 1, 1),
        (2 * MIN_IMAGES_PER_CHUNK, 2),
        (5 * MIN_IMAGES_PER_CHUNK + 3, 2),
    ],
)
def test_chunks_are_returned_in_order_and_have_the_minimum_size(threads: int, images: int, chunks: int) -> None:
    parallel, pixels = CpuDataParallel(threads), torch.arange(images, dtype=torch.float32)[:, None]
    found = parallel.map_chunks(lambda chunk: (chunk * 2, torch.get_num_threads()), pixels)
    assert len(found) == chunks
    assert torch.equal(torch.cat([doubled for doubled, _ in found]), pixels * 2)
    assert {used for _, used in found} == {threads // chunks}
    assert torch.get_num_threads() == threads
    parallel.close()


def test_an_error_in_one_chunk_is_raised_to_the_caller(threads: int) -> None:
    parallel = CpuDataParallel(threads)

    def faulty(chunk: torch.Tensor) -> float:
        if chunk.max() > MIN_IMAGES_PER_CHUNK:
            raise ValueError("not finite")
        return float(chunk.sum())

    with pytest.raises(ValueError, match="not finite"):
        parallel.map_chunks(faulty, torch.arange(2 * MIN_IMAGES_PER_CHUNK + 2, dtype=torch.float32)[:, None])
    assert torch.get_num_threads() == threads
    parallel.close()


def test_one_thread_does_not_chunk_the_batch() -> None:
    parallel = CpuDataParallel(1)
    assert parallel.map_chunks(len, torch.zeros(100, 1)) == [100]
    parallel.close()
