from __future__ import annotations

import errno
import hashlib
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from adapters.storage.image_store import FileImageStore
from pipeline.domain import StoredFile
from pipeline.errors import OutOfResources, PermanentError
from pipeline.ports.services import ImageStore
from tests.builders.fakes.images import FakeImageStore


@pytest.fixture(params=["fake", "files"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ImageStore:
    return FakeImageStore() if request.param == "fake" else FileImageStore(tmp_path / "images")


def test_a_written_file_is_read_back(store: ImageStore) -> None:
    file = store.write(b"film")
    assert file == store.file_of(b"film") == store.write(b"film")
    assert store.exists(file)
    assert store.read(file) == b"film"
    assert store.free_bytes() > 0
    store.remove(file)
    store.remove(file)
    assert not store.exists(file)
    with pytest.raises(PermanentError):
        store.read(file)


def test_a_file_is_named_by_its_content(tmp_path: Path) -> None:
    store = FileImageStore(tmp_path)
    file = store.write(b"film")
    digest = hashlib.sha256(b"film").hexdigest()
    assert file == StoredFile(f"{digest[:2]}/{digest[2:4]}/{digest}.dcm", digest, 4)
    path = tmp_path / file.key
    assert path.stat().st_mode & 0o007 == 0  # owner and group only
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [path]


def test_damage_is_detected(tmp_path: Path) -> None:
    store = FileImageStore(tmp_path)
    file = store.write(b"film")
    (tmp_path / file.key).write_bytes(b"filn")
    with pytest.raises(PermanentError, match="checksum differs"):
        store.read(file)
    (tmp_path / file.key).write_bytes(b"fil")
    assert not store.exists(file)
    assert store.read(store.write(b"film")) == b"film"  # a truncated file is written again


def test_a_stored_checksum_is_verified_in_place_of_the_sha_256(tmp_path: Path) -> None:
    store = FileImageStore(tmp_path)
    incoming = store.open_incoming()
    for piece in (b"fi", b"lm"):
        incoming.write(piece)
    file = incoming.commit()
    assert file.xxh3 == store.file_of(b"film").xxh3 == "4a34b091f0a917be0dfe4dd3c5366d96"
    before = replace(file, xxh3="")  # stored by an earlier release
    assert store.read(file) == store.read(before) == b"film"
    for wrong in (replace(file, xxh3="0" * 32), replace(before, sha256="0" * 64)):
        with pytest.raises(PermanentError, match="checksum differs"):
            store.read(wrong)
    (tmp_path / file.key).write_bytes(b"filn")
    for damaged in (file, before):
        with pytest.raises(PermanentError, match="checksum differs"):
            store.read(damaged)


def test_stale_parts_are_removed(tmp_path: Path) -> None:
    store = FileImageStore(tmp_path)
    file = store.write(b"film")
    (tmp_path / file.key).with_suffix(".part").write_bytes(b"half")
    assert store.remove_stale_parts(older_than_seconds=60) == 0  # it may still be written
    assert store.remove_stale_parts(older_than_seconds=-1) == 1
    assert store.exists(file)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
def test_a_refusing_disk_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def full(_descriptor: int, _content: Any) -> int:
        raise OSError(code, os.strerror(code))

    store = FileImageStore(tmp_path)
    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OutOfResources, match=os.strerror(code)) as refused:
        store.write(b"film")
    assert "storage.directory" in refused.value.hint
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_an_interrupted_write_leaves_no_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_sync(_descriptor: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_sync)
    (tmp_path / "images").mkdir()
    with pytest.raises(OutOfResources):
        FileImageStore(tmp_path / "images").write(b"film")
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_a_file_that_no_row_names_is_listed_until_it_is_claimed(tmp_path: Path) -> None:
    store = FileImageStore(tmp_path)
    file = store.write_unclaimed(b"SR", "1.2.3")
    assert store.read(file) == b"SR"
    assert store.list_unclaimed(older_than_seconds=3600) == []
    ((listed, owner),) = store.list_unclaimed(older_than_seconds=-1)
    assert (listed.key, listed.sha256, owner) == (file.key, file.sha256, "1.2.3")
    store.mark_claimed(file, "1.2.3")
    store.mark_claimed(file, "1.2.3")
    assert store.list_unclaimed(older_than_seconds=-1) == []
    assert store.exists(file)


@pytest.mark.parametrize("shift", [-7200, 86400 * 400])
def test_what_was_written_long_ago_or_in_the_future_is_listed_and_removed(shift: int, tmp_path: Path) -> None:
    store = FileImageStore(tmp_path)
    store.write_unclaimed(b"SR", "1.2.3")
    store.open_incoming()
    (mark,), (part,) = tmp_path.glob("unclaimed/*"), tmp_path.glob("arriving/*")
    for path in (mark, part):
        os.utime(path, (time.time() + shift,) * 2)
    assert len(store.list_unclaimed(older_than_seconds=3600)) == 1
    assert store.remove_stale_parts(older_than_seconds=3600) == 1
