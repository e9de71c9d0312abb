"""The model directory: bases and versions as folders that are published whole or not at all. Files and JSON; no torch."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapters.storage.model_files import base_folder, bases_folder, version_folder
from models.checkpoint_files import CARD, HEAD, WEIGHTS, rename_card_keys
from pipeline.errors import NoWeights, OutOfResources, PermanentError, TransientError, WeightsCorrupt

_BASE_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_ABANDONED_SECONDS = 24 * 3600  # a staging folder this old belongs to a process that died
_IMPORT_AGAIN = "import the weights again: radclipd model import"


@dataclass(frozen=True, slots=True)
class StoredBase:
    """A base on disk. `card` is JSON: weights, architecture, preprocess, golden, notice, source, libraries."""

    name: str
    folder: Path
    card: dict[str, Any]

    @property
    def weights_sha256(self) -> str:
        """SHA-256 of the weights file, by the card."""
        return str(self.card["weights"]["sha256"])


class ModelStore:
    """The model directory. The catalog lists the versions; the store holds their files."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def base_folder(self, name: str) -> Path:
        """Return the folder of a base of this name, existing or not. PermanentError for a name that cannot be a folder's."""
        if not _BASE_NAME.fullmatch(name):
            raise PermanentError(
                f"{name!r} cannot name a base", hint="use up to 63 of a-z 0-9 . _ - and begin with a letter or digit"
            )
        return base_folder(self.root, name)

    def version_folder(self, number: int) -> Path:
        """Return the folder of a version of this number, existing or not."""
        return version_folder(self.root, number)

    def bases(self) -> list[StoredBase]:
        """Return every complete base, by name. The staging folder of a dead process is ignored."""
        folder = bases_folder(self.root)
        names = sorted(path.name for path in folder.iterdir() if _BASE_NAME.fullmatch(path.name)) if folder.is_dir() else []
        return [self.base(name) for name in names if (base_folder(self.root, name) / CARD).is_file()]

    def base(self, name: str) -> StoredBase:
        """Return a base. NoWeights where it does not exist, WeightsCorrupt where its card cannot be read."""
        folder = self.base_folder(name)
        return StoredBase(name, folder, _read_card(folder))

    def has_version(self, number: int, *, base: str) -> bool:
        """Return whether the files of a version and of its base exist. Only loading the version verifies their content."""
        return (self.base_folder(base) / WEIGHTS).is_file() and (self.version_folder(number) / HEAD).is_file()

    @contextmanager
    def stage(self) -> Iterator[Path]:
        """Yield an empty staging folder for a base or a version. It is removed at the end unless it has been published."""
        self._remove_abandoned_folders()
        folder = self.root / f".{uuid.uuid4().hex}.part"
        with _translate_disk_errors(self.root):
            folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def publish_base(self, staged: Path, name: str) -> StoredBase:
        """Publish a staged base. An existing base of this name with the same weights is kept.

        PermanentError where the name belongs to other weights, NoWeights or WeightsCorrupt where the staged folder is no base.
        """
        folder, card = self.base_folder(name), _read_card(staged)
        if (folder / CARD).is_file():
            known = self.base(name)
            if any(known.card.get(key) != card.get(key) for key in ("weights", "architecture", "preprocess", "notice")):
                raise PermanentError(f"the base {name} exists and is another one", hint="choose another name with --name")
            return known
        self._publish_folder(staged, folder)
        return self.base(name)

    def publish_version(self, staged: Path, number: int) -> Path:
        """Publish a staged version; a folder of this number that has no row in the catalog is replaced."""
        _read_card(staged)
        folder = self.version_folder(number)
        self._publish_folder(staged, folder)
        return folder

    @contextmanager
    def lock(self, purpose: str) -> Iterator[None]:
        """Lock the directory for one purpose; the lock ends with the process at the latest. TransientError where another process
        holds it."""
        with _translate_disk_errors(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
            held = (self.root / f".{purpose}.lock").open("w")
        with held:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise TransientError(f"another process is at work: {purpose}", hint="wait for it to end") from error
            yield

    def _publish_folder(self, staged: Path, folder: Path) -> None:
        with _translate_disk_errors(self.root):
            folder.parent.mkdir(parents=True, exist_ok=True)
            if folder.exists():
                folder.rename(self.root / f".{uuid.uuid4().hex}.part")  # removed later: only a rename is fast and atomic
            _sync_folder(staged)
            staged.rename(folder)
            _sync_folder(folder.parent)
            _sync_folder(self.root)

    def _remove_abandoned_folders(self) -> None:
        """Remove the staging folders of dead processes."""
        for folder in self.root.glob(".*.part"):
            with suppress(FileNotFoundError):  # another process removes it too
                if folder.stat().st_mtime < time.time() - _ABANDONED_SECONDS:
                    shutil.rmtree(folder, ignore_errors=True)


def _read_card(folder: Path) -> dict[str, Any]:
    path = folder / CARD
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise NoWeights(f"no model in {folder}: {error.strerror}", hint=_IMPORT_AGAIN) from error
    except ValueError as error:
        raise WeightsCorrupt(f"{path} is not JSON", hint=_IMPORT_AGAIN) from error
    if not isinstance(card, dict) or not isinstance(card.get("weights"), dict) or "sha256" not in card["weights"]:
        raise WeightsCorrupt(f"{path} is no model's card", hint=_IMPORT_AGAIN)
    return rename_card_keys(card)


@contextmanager
def _translate_disk_errors(root: Path) -> Iterator[None]:
    """Translate the errors of a disk to OutOfResources."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        hint = "make room on the disk" if full else "check that [model] directory exists and belongs to radclipd"
        raise OutOfResources(f"cannot write to the model directory {root}: {error.strerror}", hint=hint) from error


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
