"""The prefix store gives back what was written or says that it is missing: lost, torn, stale, full, shared, killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.ml import activation_store
from adapters.ml.activation_shard import PAGE
from adapters.ml.activation_store import TOLERANCE, ActivationIdentity, ActivationReadResult, ActivationStore
from models.encoder.activations import TOLERANCE as SHORT_CUTS
from models.encoder.activations import SplitActivations, activation_shape, encode_activations, encode_split
from models.encoder.architecture import Architecture
from models.encoder.base import read_base
from models.encoder.encoder import Encoder
from pipeline.errors import ConfigurationError, OutOfResources
from tests.builders import learnable_films, tiny, towers

IDENTITY = ActivationIdentity("0" * 64, "1" * 64, 2, length=5, width=64, dimension=16)
RECORD = 5 * 64 * 2 + 16 * 4
SHARD = 4 * PAGE  # of a limit of four of them: a table of one page, and eleven records
LIMIT = 4 * SHARD


def record(number: int, identity: ActivationIdentity = IDENTITY) -> SplitActivations:
    """Of one film, [L, W] and [D]."""
    generator = torch.Generator().manual_seed(number)
    entering = torch.randn(identity.length, identity.width, generator=generator).half()
    return SplitActivations(entering, torch.randn(identity.dimension, generator=generator))


def records(numbers: Iterable[int], identity: ActivationIdentity = IDENTITY) -> tuple[list[str], SplitActivations]:
    return [f"film {number}" for number in numbers], SplitActivations.stack(record(number, identity) for number in numbers)


def right(found: ActivationReadResult, identity: ActivationIdentity = IDENTITY) -> bool:
    """Whether each film that was found has its own numbers, to the bit."""
    wanted = [record(int(key.split()[1]), identity) for key in found.keys]
    parts = zip(found.split, *wanted, strict=True)
    return all(len(rows) == len(own) and all(map(torch.equal, rows, own)) for rows, *own in parts)


def opened(root: Path, identity: ActivationIdentity = IDENTITY, *, limit: int = LIMIT) -> ActivationStore:
    return ActivationStore(root, identity, max_bytes=limit)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ActivationStore]:
    made = opened(tmp_path)
    yield made
    made.close()


def shards(root: Path) -> list[Path]:
    return sorted(root.glob("*/*.shard"))


def holds(store: ActivationStore, numbers: range) -> bool:
    """Whether exactly these of the first hundred are there, each with its own numbers."""
    found = store.read([f"film {number}" for number in range(100)])
    return found.keys == tuple(f"film {number}" for number in numbers) and right(found)


def test_what_was_written_is_read_in_the_order_asked_for_and_the_rest_is_missing(store: ActivationStore) -> None:
    assert store.write(*records(range(4))) == 4
    found = store.read(["film 2", "nobody", "film 0"])
    assert (found.keys, found.missing) == (("film 2", "film 0"), ("nobody",))
    assert right(found)
    assert [part.dtype for part in found.split] == [torch.float16, torch.float32]
    assert store.missing(["film 3", "film 4"]) == ["film 4"]
    nothing = store.read(["nobody"])
    assert [part.shape for part in nothing.split] == [(0, 5, 64), (0, 16)] and nothing.missing == ("nobody",)


def test_it_is_there_after_a_restart_and_writing_goes_on_in_the_same_shard(tmp_path: Path) -> None:
    for numbers in (range(3), range(3, 6)):
        store = opened(tmp_path)
        store.write(*records(numbers))
        store.close()
    assert len(shards(tmp_path)) == 1
    assert holds(opened(tmp_path), range(6))


def test_the_same_again_takes_no_room(store: ActivationStore) -> None:
    store.write(*records(range(3)))
    assert store.write(*records(range(3))) == 0
    assert store.write(*records(range(2, 5))) == 2
    assert len(store) == 5


def test_the_oldest_go_when_it_is_full_and_it_never_takes_more_than_its_limit(tmp_path: Path, store: ActivationStore) -> None:
    for number in range(80):
        store.write(*records(range(number, number + 1)))
        assert store.size() <= LIMIT
        assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) <= LIMIT
    kept = len(store)
    assert 30 <= kept < 80 and len(shards(tmp_path)) == 4
    assert holds(store, range(80 - kept, 80))
    assert holds(opened(tmp_path), range(80 - kept, 80))


def test_what_was_evicted_is_made_again(store: ActivationStore) -> None:
    store.write(*records(range(80)))
    missing = store.missing([f"film {number}" for number in range(5)])
    assert len(missing) == 5
    store.write(*records(range(5)))
    assert not store.missing([f"film {number}" for number in range(5)])


def test_a_reader_goes_on_reading_what_was_evicted_under_it(tmp_path: Path, store: ActivationStore) -> None:
    store.write(*records(range(5)))
    reader = opened(tmp_path)
    store.write(*records(range(5, 80)))
    assert store.missing(["film 0"])
    found = reader.read(["film 0"])
    assert found.keys == ("film 0",) and right(found)
    reader.refresh()
    assert reader.missing(["film 0"]) == ["film 0"] and not reader.missing(["film 79"])


@pytest.mark.parametrize(
    "other",
    [
        replace(IDENTITY, weights_sha256="2" * 64),
        replace(IDENTITY, preprocess="2" * 64),
        replace(IDENTITY, k=1),
        replace(IDENTITY, length=10, width=32),
        replace(IDENTITY, dimension=8),
    ],
)
def test_what_other_weights_preprocessing_k_or_shape_gave_is_are_never_given(tmp_path: Path, other: ActivationIdentity) -> None:
    first = opened(tmp_path)
    first.write(*records(range(3)))
    first.close()
    second = opened(tmp_path, other)
    assert len(second) == 0 and second.missing(["film 0"]) == ["film 0"]
    second.write(*records([0], other))
    assert right(second.read(["film 0"]), other)
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


def cut_off(path: Path, size: int) -> None:
    os.truncate(path, size)


def turn(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 0x40
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "left"),
    [
        (lambda path: path.unlink(), range(0)),
        (lambda path: cut_off(path, 0), range(0)),
        (lambda path: cut_off(path, 40), range(0)),
        (lambda path: cut_off(path, PAGE), range(0)),
        (lambda path: cut_off(path, 2 * PAGE), range(0)),
        (lambda path: cut_off(path, 2 * PAGE + 3 * RECORD - 1), range(2)),
        (lambda path: cut_off(path, 2 * PAGE + 3 * RECORD), range(3)),
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
    assert right(found)
    assert len(found.keys) >= 4 or offset < 2 * PAGE


def test_rot_under_an_open_store_is_noticed_and_healed(tmp_path: Path, store: ActivationStore) -> None:
    store.write(*records(range(3)))
    with shards(tmp_path)[0].open("r+b") as stream:
        stream.seek(2 * PAGE + RECORD)
        stream.write(b"rot")
    assert store.read(["film 0", "film 1", "film 2"]).missing == ("film 1",)
    store.write(*records(range(1, 2)))
    assert holds(store, range(3))


def test_what_does_not_fit_half_precision_is_left_out(store: ActivationStore) -> None:
    quiet = SplitActivations(torch.ones(3, 5, 64), torch.ones(3, 16))
    quiet.activations[1] *= 1e6
    quiet.features[2] = torch.nan
    assert store.write(["film 0", "film 1", "film 2"], quiet) == 1
    assert store.read(["film 0", "film 1", "film 2"]).missing == ("film 1", "film 2")


@pytest.mark.parametrize("shapes", [((1, 4, 64), (1, 16)), ((1, 5, 64), (1, 8)), ((2, 5, 64), (1, 16)), ((2, 5, 64), (2, 16))])
def test_another_shape_is_a_mistake_of_the_caller(store: ActivationStore, shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match="shape"):
        store.write(["film 0"], SplitActivations(*map(torch.zeros, shapes)))


def test_a_limit_without_room_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no room") as caught:
        opened(tmp_path, limit=1000)
    least = int("".join(character for character in caught.value.hint if character.isdigit()))
    opened(tmp_path, limit=least).write(*records(range(9)))
    with pytest.raises(ConfigurationError):
        opened(tmp_path, limit=least - 1)


def test_a_disk_without_room_is_said_and_nothing_is_lost(
    tmp_path: Path, store: ActivationStore, monkeypatch: pytest.MonkeyPatch
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
    assert right(found)


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
    assert right(found)
    assert store.size() <= LIMIT
    store.write(*records(range(2000, 2060)))  # more than it holds: the dead writer's lock keeps no shard from going
    assert store.size() <= LIMIT
    late = store.read(["film 2059"])
    assert late.keys == ("film 2059",) and right(late)


def test_what_an_earlier_format_left_is_not_read_and_makes_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as earlier:
        earlier.setattr(activation_store, "FORMAT", activation_store.FORMAT - 1)
        first = opened(tmp_path)
        first.write(*records(range(3)))
        first.close()
    store = opened(tmp_path)
    assert store.missing(["film 0"]) == ["film 0"]
    store.write(*records(range(2)))
    assert holds(store, range(2)) and len(shards(tmp_path)) == 1


@pytest.mark.parametrize("kind", ["plain", "average, norm after", "custom blocks"])
@pytest.mark.parametrize("k", [0, 1, 3])
def test_features_from_the_store_are_those_from_the_pixels(tmp_path: Path, kind: str, k: int) -> None:
    encoder = towers.encoder(kind)
    dimension = encoder.network.get_parameter("visual.proj").shape[1]
    store = ActivationStore(
        tmp_path, ActivationIdentity("0" * 64, "1" * 64, k, *activation_shape(encoder), dimension), max_bytes=1 << 22
    )
    pixels = torch.from_numpy(learnable_films.labelled(6, seed=3)[0].astype(np.float32))[:, None].expand(-1, 3, -1, -1) * 4 - 2
    keys = [f"film {number}" for number in range(6)]
    store.write(keys, encode_split(encoder, pixels, k=k))
    stored, from_pixels = store.read(keys).split, encoder.encode_images(pixels).numpy()
    assert encode_activations(encoder, stored.activations, k=k).features.detach().numpy() == pytest.approx(
        from_pixels, abs=TOLERANCE
    )
    assert stored.features.numpy() == pytest.approx(from_pixels, abs=SHORT_CUTS)


def test_the_same_holds_for_the_real_size(tmp_path: Path) -> None:
    encoder = Encoder.untrained(Architecture.from_name("ViT-B-32"), seed=0)
    store = ActivationStore(tmp_path, ActivationIdentity("0" * 64, "1" * 64, 2, *activation_shape(encoder), 512), max_bytes=1 << 24)
    pixels = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    store.write(["a", "b"], encode_split(encoder, pixels, k=2))
    assert activation_shape(encoder) == (50, 768)
    stored, from_pixels = store.read(["a", "b"]).split, encoder.encode_images(pixels).numpy()
    assert encode_activations(encoder, stored.activations, k=2).features.detach().numpy() == pytest.approx(
        from_pixels, abs=TOLERANCE
    )
    assert stored.features.numpy() == pytest.approx(from_pixels, abs=SHORT_CUTS)


def test_the_identity_is_that_of_a_base(tmp_path: Path) -> None:
    base = read_base(tiny.base(tmp_path / "base"))
    identity = ActivationIdentity.of_base(base, k=1)
    assert (identity.weights_sha256, identity.preprocess) == (base.sha256, base.preprocess.fingerprint)
    assert (identity.k, identity.length, identity.width) == (1, 5, 64)
    other = ActivationIdentity.of_base(read_base(tiny.base(tmp_path / "other", seed=1)), k=1)
    assert other.fingerprint != identity.fingerprint
