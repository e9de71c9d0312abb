from __future__ import annotations

import errno
import hashlib
import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from adapters.storage.image_store import MARKER_FILE, FileImageStore
from pipeline.domain import StoredFile
from pipeline.errors import OutOfResources, PermanentError
from pipeline.ports.services import ImageStore
from tests.builders.fakes.images import FakeImageStore


@pytest.fixture(params=["fake", "files"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ImageStore:
    return FakeImageStore() if request.param == "fake" else FileImageStore(tmp_path / "images")


def stored_files(folder: Path) -> list[Path]:
    """Every file below the folder but the marker of a store."""
    return [path for path in folder.rglob("*") if path.is_file() and path.name != MARKER_FILE]


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
    assert stored_files(tmp_path) == [path]


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
    (tmp_path / "arriving" / "0.part").write_bytes(b"half")
    assert store.remove_stale_parts(older_than_seconds=60) == 0  # it may still be written
    assert store.remove_stale_parts(older_than_seconds=-1) == 1
    assert store.exists(file)


NAMES = "ENOSPC EDQUOT EROFS EACCES EPERM EIO EMFILE ESTALE ETIMEDOUT ENOTCONN EHOSTDOWN EREMOTEIO ENXIO EFBIG ENOLCK ELOOP"
DISK_ERRORS = [getattr(errno, name) for name in NAMES.split()]
"""Whatever a disk may say: full, read-only, stale handle, time-out, host down."""


@pytest.mark.parametrize("call", ["write", "fsync", "replace", "open", "statvfs"])
def test_a_refusing_disk_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    def refuse(*_: Any) -> int:
        raise OSError(code, os.strerror(code))

    store = FileImageStore(tmp_path)
    store.free_bytes()
    for code in DISK_ERRORS:
        with monkeypatch.context() as disk, pytest.raises(OutOfResources, match=re.escape(os.strerror(code))) as refused:
            disk.setattr(os, call, refuse)
            store.free_bytes()
            store.write(b"film")
        assert "storage.directory" in refused.value.hint
    assert stored_files(tmp_path) == []


def test_a_file_that_cannot_be_removed_or_closed_raises_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.ESTALE, "Stale file handle")

    part = FileImageStore(tmp_path).open_incoming()
    with monkeypatch.context() as disk:
        disk.setattr(Path, "unlink", refuse)
        part.discard()
        part.discard()


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN, errno.EACCES])
def test_a_disk_that_cannot_be_read_now_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def refuse(_path: Path) -> bytes:
        raise OSError(code, os.strerror(code))

    store = FileImageStore(tmp_path)
    file = store.write(b"film")
    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(OutOfResources, match=re.escape(os.strerror(code))):
        store.read(file)


def test_an_empty_folder_is_not_the_store_of_a_catalog_with_instances(tmp_path: Path) -> None:
    disk, mount_point = tmp_path / "disk", tmp_path / "mount point"
    store = FileImageStore(disk)
    file = store.write(b"film")
    assert (disk / MARKER_FILE).is_file()
    disk.rename(tmp_path / "unmounted")
    for folder in (disk, mount_point):
        mount_point.mkdir(exist_ok=True)
        gone = FileImageStore(folder, lambda: [file])
        for use in (
            gone.free_bytes,
            gone.open_incoming,
            lambda gone=gone: gone.write(b"another"),
            lambda gone=gone: gone.read(file),
        ):
            with pytest.raises(OutOfResources, match="is not the image store"):
                use()
    assert not disk.exists()
    assert list(mount_point.iterdir()) == []
    with pytest.raises(OutOfResources) as refused:
        gone.free_bytes()
    assert f"touch {mount_point / MARKER_FILE}" in refused.value.hint
    (mount_point / MARKER_FILE).touch()  # as the hint says
    gone.write(b"another")
    with pytest.raises(PermanentError, match="missing"):
        gone.read(file)


def test_a_store_that_goes_away_while_it_is_used_is_refused_and_comes_back(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    store = FileImageStore(folder, lambda: [file])
    file = FileImageStore(folder).write(b"film")
    store.free_bytes()
    folder.rename(tmp_path / "unmounted")
    folder.mkdir()
    with pytest.raises(OutOfResources):
        store.open_incoming()
    folder.rmdir()
    (tmp_path / "unmounted").rename(folder)
    store.open_incoming().discard()
    assert store.read(file) == b"film"


def test_the_store_of_a_release_without_marker_is_known_by_its_files(tmp_path: Path) -> None:
    file = FileImageStore(tmp_path).write(b"film")
    (tmp_path / MARKER_FILE).unlink()
    lost = replace(file, key="ab/cd/lost.dcm")
    store = FileImageStore(tmp_path, lambda: [lost, file])
    with pytest.raises(PermanentError, match="missing"):
        store.read(lost)
    store.open_incoming().discard()
    assert (tmp_path / MARKER_FILE).is_file()


def test_an_interrupted_write_leaves_no_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_sync(_descriptor: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_sync)
    (tmp_path / "images").mkdir()
    with pytest.raises(OutOfResources):
        FileImageStore(tmp_path / "images").write(b"film")
    assert stored_files(tmp_path) == []


def test_a_probe_leaves_nothing_and_disturbs_no_other(tmp_path: Path) -> None:
    store = FileImageStore(tmp_path / "images")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: store.probe_write(), range(100)))
    assert list(tmp_path.rglob("*")) == []  # not even the store's folder
    file = store.write(b"film")
    before = sorted(tmp_path.rglob("*"))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: store.probe_write(), range(100)))
    assert sorted(tmp_path.rglob("*")) == before
    assert store.read(file) == b"film"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.ESTALE, errno.ENODEV])
def test_a_probe_tells_whatever_a_disk_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def refuse(_descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OutOfResources, match=os.strerror(code)):
        FileImageStore(tmp_path / "images").probe_write()
    assert list(tmp_path.rglob("*")) == []


@pytest.mark.parametrize(
    ("folder", "fault"), [("file", "is a file"), ("file/below", "no folder can be made"), ("link", "is a link")]
)
def test_a_probe_of_a_store_that_cannot_be_made_says_why(tmp_path: Path, folder: str, fault: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    store = FileImageStore(tmp_path / folder)
    with pytest.raises(OutOfResources, match=fault):
        store.probe_write()
    assert store.free_bytes() > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link"]


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
