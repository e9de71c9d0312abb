"""The activation store gives back what was written or says that it is missing: lost, torn, stale, full, shared, killed."""

from __future__ import annotations

import multiprocessing
import os
import resource
import shutil
import signal
import sqlite3
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import structlog
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.ml import activation_store
from adapters.ml.activation_files import SUFFIX
from adapters.ml.activation_store import PAGE_BYTES, TOLERANCE, ActivationIdentity, ActivationReadResult, ActivationStore
from models.encoder.activations import TOLERANCE as SHORT_CUTS
from models.encoder.activations import SplitActivations, activation_shape, encode_activations, encode_split
from models.encoder.architecture import Architecture
from models.encoder.base import read_base
from models.encoder.encoder import Encoder
from pipeline.errors import ConfigurationError, OutOfResources
from tests.builders import learnable_films, tiny, towers

IDENTITY = ActivationIdentity("0" * 64, "1" * 64, 2, length=5, width=64, dimension=16)
RECORD = 5 * 64 * 2 + 16 * 4
LIMIT = 64 * PAGE_BYTES  # about five hundred records, and a batch with its rollback journal
FULL = 800  # more records than fit


def record(number: int, identity: ActivationIdentity = IDENTITY) -> SplitActivations:
    """Of one film, [L, W] and [D]."""
    generator = torch.Generator().manual_seed(number)
    activations = torch.randn(identity.length, identity.width, generator=generator).half()
    return SplitActivations(activations, torch.randn(identity.dimension, generator=generator))


def records(numbers: Iterable[int], identity: ActivationIdentity = IDENTITY) -> tuple[list[str], SplitActivations]:
    return [f"film {number}" for number in numbers], SplitActivations.stack(record(number, identity) for number in numbers)


def is_correct(found: ActivationReadResult, identity: ActivationIdentity = IDENTITY) -> bool:
    """Whether each film that was found has its own numbers, to the bit."""
    wanted = [record(int(key.split()[1]), identity) for key in found.keys]
    parts = zip(found.split, *wanted, strict=True)
    return all(len(rows) == len(own) and all(map(torch.equal, rows, own)) for rows, *own in parts)


OPENED: list[ActivationStore] = []


def opened(root: Path, identity: ActivationIdentity = IDENTITY, *, limit: int = LIMIT) -> ActivationStore:
    OPENED.append(made := ActivationStore(root, identity, max_bytes=limit))
    return made


@pytest.fixture(autouse=True)
def _close_stores() -> Iterator[None]:
    yield
    while OPENED:
        OPENED.pop().close()


@pytest.fixture
def store(tmp_path: Path) -> ActivationStore:
    return opened(tmp_path)


def file_of(root: Path) -> Path:
    """The only one."""
    (path,) = root.iterdir()
    return path


def holds(store: ActivationStore, numbers: range) -> bool:
    """Whether exactly these of the first thousand are there, each with its own numbers."""
    found = store.read([f"film {number}" for number in range(1000)])
    return found.keys == tuple(f"film {number}" for number in numbers) and is_correct(found)


def test_records_are_read_in_the_order_of_the_request_and_the_rest_is_missing(store: ActivationStore) -> None:
    assert store.write(*records(range(4))) == 4
    found = store.read(["film 2", "nobody", "film 0"])
    assert (found.keys, found.missing) == (("film 2", "film 0"), ("nobody",))
    assert is_correct(found)
    assert [part.dtype for part in found.split] == [torch.float16, torch.float32]
    assert store.missing(["film 3", "film 4"]) == ["film 4"]
    nothing = store.read(["nobody"])
    assert [part.shape for part in nothing.split] == [(0, 5, 64), (0, 16)] and nothing.missing == ("nobody",)


def test_after_a_restart_the_same_file_is_read_and_written(tmp_path: Path) -> None:
    for numbers in (range(3), range(3, 6)):
        store = opened(tmp_path)
        store.write(*records(numbers))
        store.close()
    assert file_of(tmp_path).name == IDENTITY.fingerprint + SUFFIX
    assert holds(opened(tmp_path), range(6))


def test_a_second_write_of_a_record_takes_no_room(store: ActivationStore) -> None:
    store.write(*records(range(3)))
    assert store.write(*records(range(3))) == 0
    assert store.write(*records(range(2, 5))) == 2
    assert len(store) == 5


@pytest.mark.parametrize("batch", [1, 5, 16, 100])
def test_a_full_store_evicts_the_oldest_records_and_keeps_its_limit(tmp_path: Path, store: ActivationStore, batch: int) -> None:
    for start in range(0, FULL, batch):
        store.write(*records(range(start, start + batch)))
        assert store.size() == file_of(tmp_path).stat().st_size <= LIMIT
    kept = len(store)
    assert 300 <= kept < FULL
    assert holds(store, range(FULL - kept, FULL))
    assert holds(opened(tmp_path), range(FULL - kept, FULL))


def test_the_file_and_its_rollback_journal_keep_the_limit_while_it_is_written(
    tmp_path: Path, store: ActivationStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    count = activation_store._count_used_pages

    def count_and_note(database: sqlite3.Connection) -> int:
        sizes.append(store.size())
        return count(database)

    monkeypatch.setattr(activation_store, "_count_used_pages", count_and_note)
    store.write(*records(range(FULL)))
    assert LIMIT // 4 < max(sizes) <= LIMIT


def test_an_evicted_record_can_be_written_again(store: ActivationStore) -> None:
    store.write(*records(range(FULL)))
    missing = store.missing([f"film {number}" for number in range(5)])
    assert len(missing) == 5
    store.write(*records(range(5)))
    assert not store.missing([f"film {number}" for number in range(5)])


def test_a_reader_sees_at_once_what_another_process_writes_and_evicts(tmp_path: Path, store: ActivationStore) -> None:
    reader = opened(tmp_path)
    store.write(*records(range(5)))
    assert holds(reader, range(5))
    store.write(*records(range(5, FULL)))
    assert reader.missing(["film 0"]) == ["film 0"] and not reader.missing([f"film {FULL - 1}"])


def test_a_lower_limit_shrinks_the_file_and_keeps_the_newest_records(tmp_path: Path) -> None:
    store = opened(tmp_path, limit=4 * LIMIT)
    store.write(*records(range(1500)))
    assert store.size() > LIMIT
    lower = opened(tmp_path)
    lower.write(*records(range(1500, 1510)))
    assert lower.size() <= LIMIT
    kept = len(lower)
    assert kept >= 300
    found = lower.read([f"film {number}" for number in range(1510)])
    assert found.keys == tuple(f"film {number}" for number in range(1510 - kept, 1510)) and is_correct(found)


def test_the_reserve_of_the_disk_stays_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, disk = ActivationStore(tmp_path, IDENTITY, max_bytes=4 * LIMIT, reserve_bytes=5 * LIMIT), 6 * LIMIT

    def usage(_: Path) -> SimpleNamespace:
        return SimpleNamespace(free=disk - store.size())

    monkeypatch.setattr(shutil, "disk_usage", usage)
    store.write(*records(range(FULL)))
    assert LIMIT // 4 < store.size() <= LIMIT
    assert not store.missing([f"film {FULL - 1}"])
    assert store.admits(time.time() + 1) and not store.admits(0.0)
    disk -= LIMIT // 4  # others fill it
    store.write(*records([FULL]))
    assert store.size() <= LIMIT * 3 // 4
    assert not store.missing([f"film {FULL}"])
    disk = 5 * LIMIT
    with pytest.raises(OutOfResources, match="no room"):
        store.write(*records([FULL + 1]))
    assert not store.admits(time.time() + 1)  # without an image left to evict


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
def test_records_of_other_weights_preprocessing_k_or_shape_are_not_used(tmp_path: Path, other: ActivationIdentity) -> None:
    first = opened(tmp_path)
    first.write(*records(range(3)))
    first.close()
    second = opened(tmp_path, other)
    assert len(second) == 0 and second.missing(["film 0"]) == ["film 0"]
    second.write(*records([0], other))
    assert is_correct(second.read(["film 0"]), other)
    assert holds(first, range(3))  # there is room for both


def test_files_of_other_identities_and_earlier_releases_are_deleted_for_new_records(tmp_path: Path) -> None:
    first, other = opened(tmp_path), replace(IDENTITY, k=1)
    first.write(*records(range(3)))
    earlier = tmp_path / ("e" * 64)
    earlier.mkdir()
    (earlier / "00000000001796038400-00000000.shard").write_bytes(b"old")
    (tmp_path / "notes.txt").write_text("of the site's own")
    second = opened(tmp_path, other)
    second.write(*records(range(FULL), other))
    assert {path.name for path in tmp_path.iterdir()} == {other.fingerprint + SUFFIX, "notes.txt"}
    assert first.missing(["film 0"]) == ["film 0"]
    first.write(*records(range(2)))
    assert holds(first, range(2))


def test_records_of_a_file_renamed_to_another_identity_are_not_used(tmp_path: Path) -> None:
    first, other = opened(tmp_path), replace(IDENTITY, k=1)
    first.write(*records(range(3)))
    first.close()
    file_of(tmp_path).rename(tmp_path / (other.fingerprint + SUFFIX))
    assert holds(opened(tmp_path, other), range(0))


def cut_off(path: Path, size: int) -> None:
    os.truncate(path, size)


def flip_bit(path: Path, offset: int, bit: int = 6) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 1 << bit
    path.write_bytes(content)


def another_table(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE notes (words TEXT)")


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.unlink(),
        lambda path: shutil.rmtree(path.parent),
        lambda path: cut_off(path, 0),
        lambda path: cut_off(path, 40),
        lambda path: cut_off(path, PAGE_BYTES),
        lambda path: cut_off(path, path.stat().st_size - PAGE_BYTES),
        lambda path: flip_bit(path, 3),  # the header
        lambda path: flip_bit(path, 18, bit=1),  # the version for writing: read-only
        lambda path: path.write_bytes(b"notes of the IT department"),
        lambda path: path.write_bytes(path.read_bytes()[:PAGE_BYTES] + bytes(path.stat().st_size - PAGE_BYTES)),
        another_table,
    ],
)
@pytest.mark.parametrize("restarted", [False, True])
def test_records_of_a_lost_or_damaged_file_are_missing_and_can_be_written_again(
    tmp_path: Path, damage: Callable[[Path], None], restarted: bool
) -> None:
    root = tmp_path / "activations"
    store = opened(root)
    store.write(*records(range(30)))
    if restarted:
        store.close()
    damage(file_of(root))
    again = opened(root) if restarted else store
    assert is_correct(again.read([f"film {number}" for number in range(30)]))
    again.write(*records(range(30)))
    assert holds(again, range(30))
    again.close()
    later = opened(root)  # may find what the pages in memory have hidden
    assert is_correct(later.read([f"film {number}" for number in range(30)]))
    later.write(*records(range(30)))
    assert holds(later, range(30))


@settings(max_examples=60, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_no_flipped_bit_gives_wrong_numbers(tmp_path_factory: pytest.TempPathFactory, place: float, bit: int) -> None:
    root = tmp_path_factory.mktemp("store")
    store = opened(root)
    store.write(*records(range(30)))
    store.close()
    path = file_of(root)
    flip_bit(path, int(place * path.stat().st_size), bit)
    again = opened(root)
    assert is_correct(again.read([f"film {number}" for number in range(30)]))
    again.write(*records(range(40)))
    assert is_correct(again.read([f"film {number}" for number in range(40)]))


def test_a_corrupt_record_is_missing_and_can_be_written_again(tmp_path: Path, store: ActivationStore) -> None:
    store.write(*records(range(3)))
    path, content = file_of(tmp_path), record(1).activations.numpy().tobytes()
    flip_bit(path, path.read_bytes().index(content) + 11)
    store.close()
    with structlog.testing.capture_logs() as lines:
        assert store.read(["film 0", "film 1", "film 2"]).missing == ("film 1",)
    assert [line["images"] for line in lines] == [1]
    assert store.missing(["film 0", "film 1", "film 2"]) == ["film 1"]
    store.write(*records(range(1, 2)))
    assert holds(store, range(3))


def test_keys_with_the_same_short_hash_are_told_apart(store: ActivationStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activation_store, "shorten_hash", lambda _: 7)
    store.write(*records(range(1)))
    assert store.read(["film 1"]).missing == ("film 1",)
    store.write(*records(range(1, 2)))
    found = store.read(["film 1"])
    assert found.keys == ("film 1",) and is_correct(found)


def test_values_beyond_half_precision_are_not_stored(store: ActivationStore) -> None:
    quiet = SplitActivations(torch.ones(3, 5, 64), torch.ones(3, 16))
    quiet.activations[1] *= 1e6
    quiet.features[2] = torch.nan
    assert store.write(["film 0", "film 1", "film 2"], quiet) == 1
    assert store.read(["film 0", "film 1", "film 2"]).missing == ("film 1", "film 2")


@pytest.mark.parametrize("shapes", [((1, 4, 64), (1, 16)), ((1, 5, 64), (1, 8)), ((2, 5, 64), (1, 16)), ((2, 5, 64), (2, 16))])
def test_another_shape_is_a_value_error(store: ActivationStore, shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match="shape"):
        store.write(["film 0"], SplitActivations(*map(torch.zeros, shapes)))


def test_a_limit_below_a_few_batches_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no room") as caught:
        opened(tmp_path, limit=1000)
    least = int("".join(character for character in caught.value.hint if character.isdigit()))
    store = opened(tmp_path, limit=least)
    store.write(*records(range(FULL)))
    assert store.size() <= least and not store.missing([f"film {FULL - 1}"])
    with pytest.raises(ConfigurationError):
        opened(tmp_path, limit=least - 1)


def test_a_full_disk_is_out_of_resources_and_loses_no_record(tmp_path: Path, store: ActivationStore) -> None:
    store.write(*records(range(40)))
    resource.setrlimit(resource.RLIMIT_FSIZE, (size := store.size(), resource.RLIM_INFINITY))
    try:
        with pytest.raises(OutOfResources, match="cannot be used"):
            store.write(*records(range(40, 200)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert store.size() <= size
    assert is_correct(store.read([f"film {number}" for number in range(200)]))
    assert not store.missing([f"film {number}" for number in range(40)])
    store.write(*records(range(200)))
    assert holds(store, range(200))


def test_a_file_locked_by_another_process_is_out_of_resources(
    tmp_path: Path, store: ActivationStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write(*records(range(2)))
    store.close()
    monkeypatch.setattr(activation_store, "_BUSY_SECONDS", 0.01)
    with closing(sqlite3.connect(file_of(tmp_path), isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(OutOfResources, match="locked"):
            store.write(*records(range(2, 4)))
    store.write(*records(range(2, 4)))
    assert holds(store, range(4))


def test_two_writers_share_a_store_and_the_limit(tmp_path: Path) -> None:
    one, two = opened(tmp_path), opened(tmp_path)
    for number in range(0, FULL, 2):
        one.write(*records(range(number, number + 1)))
        two.write(*records(range(number + 1, number + 2)))
    assert one.size() <= LIMIT
    kept = len(one)
    assert kept >= 300 and holds(one, range(FULL - kept, FULL)) and holds(two, range(FULL - kept, FULL))


def test_a_forked_process_and_threads_have_connections_of_their_own(store: ActivationStore) -> None:
    store.write(*records(range(5)))

    def write_and_close() -> None:
        store.write(*records(range(5, 10)))
        store.close()

    child = multiprocessing.get_context("fork").Process(target=write_and_close)
    child.start()
    child.join()
    assert child.exitcode == 0
    assert holds(store, range(10))
    with ThreadPoolExecutor(4) as threads:
        assert sum(threads.map(lambda number: store.write(*records([number])), range(10, 40))) == 30
    assert holds(store, range(40))
    store.close()
    assert holds(store, range(40))


def test_only_the_owner_and_the_group_may_read_the_file(tmp_path: Path) -> None:
    root = tmp_path / "activations"
    opened(root).write(*records(range(3)))
    assert [stat.S_IMODE(path.stat().st_mode) for path in (root, file_of(root))] == [0o750, 0o640]


def _write_for_ever(root: str) -> None:
    store, number = opened(Path(root)), 0
    while True:
        store.write(*records(range(number, number + 1)))
        number = (number + 1) % 1000


@pytest.mark.parametrize("after", [0.05, 0.2, 0.4])
def test_a_killed_writer_leaves_a_sound_store(tmp_path: Path, after: float) -> None:
    writer = multiprocessing.get_context("fork").Process(target=_write_for_ever, args=(str(tmp_path),))
    writer.start()
    writer.join(after)
    assert writer.pid is not None
    os.kill(writer.pid, signal.SIGKILL)
    writer.join()
    store = opened(tmp_path)
    found = store.read([f"film {number}" for number in range(1000)])
    assert is_correct(found)
    assert len(store) == len(found.keys)
    store.write(*records(range(2000, 2000 + FULL)))  # more than it holds
    assert store.size() <= LIMIT
    late = store.read([f"film {1999 + FULL}"])
    assert late.keys == (f"film {1999 + FULL}",) and is_correct(late)


def test_records_of_an_earlier_format_are_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as earlier:
        earlier.setattr(activation_store, "FORMAT", activation_store.FORMAT - 1)
        opened(tmp_path).write(*records(range(3)))
    store = opened(tmp_path)
    assert holds(store, range(0))
    store.write(*records(range(2)))
    assert holds(store, range(2))


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


def test_the_identity_follows_weights_preprocessing_and_shape_of_a_base(tmp_path: Path) -> None:
    base = read_base(tiny.base(tmp_path / "base"))
    identity = ActivationIdentity.of_base(base, k=1)
    assert (identity.weights_sha256, identity.preprocess) == (base.sha256, base.preprocess.fingerprint)
    assert (identity.k, identity.length, identity.width) == (1, 5, 64)
    other = ActivationIdentity.of_base(read_base(tiny.base(tmp_path / "other", seed=1)), k=1)
    assert other.fingerprint != identity.fingerprint
