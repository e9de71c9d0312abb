"""The prefix store gives back what was written or says that it is missing: lost, torn, stale, full, shared, killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.gpu.prefix_shard import PAGE
from adapters.gpu.prefix_store import TOLERANCE, Identity, PrefixStore
from models.architecture import Architecture
from models.base import read_base
from models.encoder import Encoder
from models.prefix import from_prefix, prefix, shape
from pipeline.errors import ConfigurationError, OutOfResources
from tests.models import films, tiny, towers

IDENTITY = Identity("0" * 64, "1" * 64, 2, length=5, width=64)
RECORD = 5 * 64 * 2
SHARD = 4 * PAGE  # of a limit of four of them: a table of one page, and eleven records
LIMIT = 4 * SHARD


def record(number: int, identity: Identity = IDENTITY) -> torch.Tensor:
    generator = torch.Generator().manual_seed(number)
    return torch.randn(1, identity.length, identity.width, generator=generator).half()


def records(numbers: range) -> tuple[list[str], torch.Tensor]:
    return [f"film {number}" for number in numbers], torch.cat([record(number) for number in numbers])


def opened(root: Path, identity: Identity = IDENTITY, *, limit: int = LIMIT) -> PrefixStore:
    return PrefixStore(root, identity, limit=limit)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[PrefixStore]:
    made = opened(tmp_path)
    yield made
    made.close()


def shards(root: Path) -> list[Path]:
    return sorted(root.glob("*/*.shard"))


def holds(store: PrefixStore, numbers: range) -> bool:
    """Whether exactly these of the first hundred are there, each with its own numbers."""
    found = store.read([f"film {number}" for number in range(100)])
    return found.keys == tuple(f"film {number}" for number in numbers) and torch.equal(
        found.activations, torch.cat([record(number) for number in numbers]) if len(numbers) else found.activations[:0]
    )


def test_what_was_written_is_read_in_the_order_asked_for_and_the_rest_is_missing(store: PrefixStore) -> None:
    assert store.write(*records(range(4))) == 4
    found = store.read(["film 2", "nobody", "film 0"])
    assert (found.keys, found.missing) == (("film 2", "film 0"), ("nobody",))
    assert torch.equal(found.activations, torch.cat([record(2), record(0)])) and found.activations.dtype == torch.float16
    assert store.missing(["film 3", "film 4"]) == ["film 4"]
    nothing = store.read(["nobody"])
    assert nothing.activations.shape == (0, 5, 64) and nothing.missing == ("nobody",)


def test_it_is_there_after_a_restart_and_writing_goes_on_in_the_same_shard(tmp_path: Path) -> None:
    for numbers in (range(3), range(3, 6)):
        store = opened(tmp_path)
        store.write(*records(numbers))
        store.close()
    assert len(shards(tmp_path)) == 1
    assert holds(opened(tmp_path), range(6))


def test_the_same_again_takes_no_room(store: PrefixStore) -> None:
    store.write(*records(range(3)))
    assert store.write(*records(range(3))) == 0
    assert store.write(*records(range(2, 5))) == 2
    assert len(store) == 5


def test_the_oldest_go_when_it_is_full_and_it_never_takes_more_than_its_limit(tmp_path: Path, store: PrefixStore) -> None:
    for number in range(80):
        store.write(*records(range(number, number + 1)))
        assert store.size() <= LIMIT
        assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) <= LIMIT
    kept = len(store)
    assert 30 <= kept < 80 and len(shards(tmp_path)) == 4
    assert holds(store, range(80 - kept, 80))
    assert holds(opened(tmp_path), range(80 - kept, 80))


def test_what_was_evicted_is_made_again(store: PrefixStore) -> None:
    store.write(*records(range(80)))
    missing = store.missing([f"film {number}" for number in range(5)])
    assert len(missing) == 5
    store.write(*records(range(5)))
    assert not store.missing([f"film {number}" for number in range(5)])


def test_a_reader_goes_on_reading_what_was_evicted_under_it(tmp_path: Path, store: PrefixStore) -> None:
    store.write(*records(range(5)))
    reader = opened(tmp_path)
    store.write(*records(range(5, 80)))
    assert store.missing(["film 0"])
    assert torch.equal(reader.read(["film 0"]).activations, record(0))
    reader.refresh()
    assert reader.missing(["film 0"]) == ["film 0"] and not reader.missing(["film 79"])


@pytest.mark.parametrize(
    "other",
    [
        replace(IDENTITY, weights_sha256="2" * 64),
        replace(IDENTITY, preprocess="2" * 64),
        replace(IDENTITY, k=1),
        replace(IDENTITY, length=10, width=32),
    ],
)
def test_activations_of_other_weights_preprocessing_k_or_shape_are_never_given(tmp_path: Path, other: Identity) -> None:
    first = opened(tmp_path)
    first.write(*records(range(3)))
    first.close()
    second = opened(tmp_path, other)
    assert len(second) == 0 and second.missing(["film 0"]) == ["film 0"]
    second.write(["film 0"], record(9, other))
    assert torch.equal(second.read(["film 0"]).activations, record(9, other))
    assert [folder.name for folder in tmp_path.iterdir()] == [other.fingerprint]  # the stale ones made room


def test_a_stale_shard_that_is_still_written_is_left_until_its_process_is_done(tmp_path: Path) -> None:
    first, second = opened(tmp_path), opened(tmp_path, replace(IDENTITY, k=1))
    first.write(*records(range(3)))
    second.write(*records(range(3)))
    assert holds(first, range(3)) and holds(second, range(3)) and len(shards(tmp_path)) == 2


def test_a_shard_moved_to_another_identity_is_not_believed(tmp_path: Path) -> None:
    first, other = opened(tmp_path), replace(IDENTITY, k=1)
    first.write(*records(range(3)))
    first.close()
    (tmp_path / IDENTITY.fingerprint).rename(tmp_path / other.fingerprint)
    assert len(opened(tmp_path, other)) == 0


def cut(path: Path, size: int) -> None:
    os.truncate(path, size)


def turn(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 0x40
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "left"),
    [
        (lambda path: path.unlink(), range(0)),
        (lambda path: cut(path, 0), range(0)),
        (lambda path: cut(path, 40), range(0)),
        (lambda path: cut(path, PAGE), range(0)),
        (lambda path: cut(path, 2 * PAGE), range(0)),
        (lambda path: cut(path, 2 * PAGE + 3 * RECORD - 1), range(2)),
        (lambda path: cut(path, 2 * PAGE + 3 * RECORD), range(3)),
        (lambda path: turn(path, 3), range(0)),  # the header
        (lambda path: turn(path, PAGE + 4 * 40 + 33), range(4)),  # the entry of the last
        (lambda path: turn(path, PAGE + 4 * 40), range(4)),  # its key
        (lambda path: turn(path, 2 * PAGE + 4 * RECORD + 11), range(4)),  # its record
        (lambda path: turn(path, 2 * PAGE + 5 * RECORD - 1), range(4)),  # the record's last byte
        (lambda path: path.write_bytes(path.read_bytes()[:PAGE] + bytes(3 * PAGE)), range(0)),
    ],
)
def test_what_is_lost_torn_or_rotten_is_missing_and_can_be_written_again(
    tmp_path: Path, damage: Callable[[Path], None], left: range
) -> None:
    store = opened(tmp_path)
    store.write(*records(range(5)))
    store.close()
    damage(shards(tmp_path)[0])
    again = opened(tmp_path)
    assert holds(again, left)
    again.write(*records(range(5)))
    assert holds(again, range(5))
    again.close()
    assert holds(opened(tmp_path), range(5))


@settings(max_examples=60, deadline=None)
@given(offset=st.integers(0, 2 * PAGE + 5 * RECORD - 1), bit=st.integers(0, 7))
def test_no_turned_bit_ever_gives_wrong_numbers(tmp_path_factory: pytest.TempPathFactory, offset: int, bit: int) -> None:
    root = tmp_path_factory.mktemp("store")
    store = opened(root)
    store.write(*records(range(5)))
    store.close()
    path = shards(root)[0]
    content = bytearray(path.read_bytes())
    content[offset] ^= 1 << bit
    path.write_bytes(content)
    found = opened(root).read([f"film {number}" for number in range(5)])
    assert torch.equal(found.activations, torch.cat([record(int(key.split()[1])) for key in found.keys] or [record(0)[:0]]))
    assert len(found.keys) >= 4 or offset < 2 * PAGE


def test_rot_under_an_open_store_is_noticed_and_healed(tmp_path: Path, store: PrefixStore) -> None:
    store.write(*records(range(3)))
    with shards(tmp_path)[0].open("r+b") as stream:
        stream.seek(2 * PAGE + RECORD)
        stream.write(b"rot")
    assert store.read(["film 0", "film 1", "film 2"]).missing == ("film 1",)
    store.write(*records(range(1, 2)))
    assert holds(store, range(3))


def test_what_does_not_fit_half_precision_is_left_out(store: PrefixStore) -> None:
    loud = torch.cat([record(0).float(), record(1).float() * 1e6])
    assert store.write(["film 0", "film 1"], loud) == 1
    assert store.read(["film 0", "film 1"]).missing == ("film 1",)


def test_another_shape_is_a_mistake_of_the_caller(store: PrefixStore) -> None:
    with pytest.raises(ValueError, match="shape"):
        store.write(["film 0"], torch.zeros(1, 4, 64))


def test_a_limit_without_room_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no room") as caught:
        opened(tmp_path, limit=1000)
    least = int("".join(character for character in caught.value.hint if character.isdigit()))
    opened(tmp_path, limit=least).write(*records(range(9)))
    with pytest.raises(ConfigurationError):
        opened(tmp_path, limit=least - 1)


def test_a_disk_without_room_is_said_and_nothing_is_lost(
    tmp_path: Path, store: PrefixStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write(*records(range(2)))
    with monkeypatch.context() as full:
        full.setattr(os, "pwrite", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(OutOfResources, match="No space left"):
            store.write(*records(range(2, 4)))
    assert holds(store, range(2))
    store.write(*records(range(2, 4)))
    assert holds(store, range(4))


def test_two_writers_share_a_store_and_the_limit(tmp_path: Path) -> None:
    one, two = opened(tmp_path), opened(tmp_path)
    for number in range(0, 40, 2):
        one.write(*records(range(number, number + 1)))
        two.write(*records(range(number + 1, number + 2)))
    assert one.size() <= LIMIT
    one.refresh()
    found = one.read([f"film {number}" for number in range(40)])
    assert len(found.keys) >= 20 and {"film 38", "film 39"} <= set(found.keys)
    assert all(torch.equal(row, record(int(key.split()[1]))[0]) for key, row in zip(found.keys, found.activations, strict=True))


def test_a_store_that_others_fill_to_the_brim_is_said(tmp_path: Path) -> None:
    writers = [opened(tmp_path) for _ in range(5)]
    for number, writer in enumerate(writers[:4]):
        writer.write(*records(range(number, number + 1)))
    with pytest.raises(OutOfResources, match="other processes"):
        writers[4].write(*records(range(9, 10)))
    writers[0].close()
    assert writers[4].write(*records(range(9, 10))) == 1


def _write_for_ever(root: str) -> None:
    store, number = opened(Path(root)), 0
    while True:
        store.write(*records(range(number, number + 1)))
        number = (number + 1) % 1000


@pytest.mark.parametrize("after", [0.05, 0.2, 0.4])
def test_a_writer_killed_in_the_middle_leaves_a_sound_store(tmp_path: Path, after: float) -> None:
    writer = multiprocessing.get_context("fork").Process(target=_write_for_ever, args=(str(tmp_path),))
    writer.start()
    writer.join(after)
    assert writer.pid is not None
    os.kill(writer.pid, signal.SIGKILL)
    writer.join()
    store = opened(tmp_path)
    found = store.read([f"film {number}" for number in range(1000)])
    assert all(torch.equal(row, record(int(key.split()[1]))[0]) for key, row in zip(found.keys, found.activations, strict=True))
    assert store.size() <= LIMIT
    store.write(*records(range(2000, 2060)))  # more than it holds: the dead writer's lock keeps no shard from going
    assert store.size() <= LIMIT
    assert torch.equal(store.read(["film 2059"]).activations, record(2059))


@pytest.mark.parametrize("kind", ["plain", "average, norm after", "custom blocks"])
@pytest.mark.parametrize("k", [0, 1, 3])
def test_features_from_the_store_are_those_from_the_pixels(tmp_path: Path, kind: str, k: int) -> None:
    encoder = towers.encoder(kind)
    length, width = shape(encoder)
    store = PrefixStore(tmp_path, Identity("0" * 64, "1" * 64, k, length, width), limit=1 << 22)
    pixels = torch.from_numpy(films.labelled(6, seed=3)[0].astype(np.float32))[:, None].expand(-1, 3, -1, -1) * 4 - 2
    keys = [f"film {number}" for number in range(6)]
    store.write(keys, prefix(encoder, pixels, k=k))
    from_store = from_prefix(encoder, store.read(keys).activations, k=k).features.detach()
    assert from_store.numpy() == pytest.approx(encoder.encode_images(pixels).numpy(), abs=TOLERANCE)


def test_the_same_holds_for_the_real_size(tmp_path: Path) -> None:
    encoder = Encoder.untrained(Architecture.named("ViT-B-32"), seed=0)
    store = PrefixStore(tmp_path, Identity("0" * 64, "1" * 64, 2, *shape(encoder)), limit=1 << 24)
    pixels = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    store.write(["a", "b"], prefix(encoder, pixels, k=2))
    assert shape(encoder) == (50, 768)
    from_store = from_prefix(encoder, store.read(["a", "b"]).activations, k=2).features.detach()
    assert from_store.numpy() == pytest.approx(encoder.encode_images(pixels).numpy(), abs=TOLERANCE)


def test_the_identity_is_that_of_a_base(tmp_path: Path) -> None:
    base = read_base(tiny.base(tmp_path / "base"))
    identity = Identity.of(base, k=1)
    assert (identity.weights_sha256, identity.preprocess) == (base.sha256, base.preprocess.fingerprint)
    assert (identity.k, identity.length, identity.width) == (1, 5, 64)
    other = Identity.of(read_base(tiny.base(tmp_path / "other", seed=1)), k=1)
    assert other.fingerprint != identity.fingerprint
