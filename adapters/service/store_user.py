"""The user of a process: root works as the owner of the store, so that the service can read and write what root makes there.

The store is the image store, the catalog and the models. Its owner is the owner of the first of their paths that is not root's; a
path that does not exist yet counts as its nearest existing parent.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from adapters.storage.folders import nearest_existing
from pipeline.errors import ConfigurationError

ROOT_UID = 0
HOME_VARIABLES = ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_RUNTIME_DIR", "XDG_STATE_HOME")
"""Variables that name folders of root's, which another user cannot use."""


@dataclass(frozen=True, slots=True)
class StoreOwner:
    """The owner of a store: its user, that user's groups and home, and the path that it owns."""

    uid: int
    groups: tuple[int, ...]  # the user's own group first
    name: str
    home: str
    path: Path


def find_store_owner(paths: Iterable[Path]) -> StoreOwner | None:
    """Return the owner of the first of these paths that is not root's; None where all are root's."""
    for path in paths:
        existing = nearest_existing(path)
        status = existing.stat()
        if status.st_uid != ROOT_UID:
            return _describe_owner(status, existing)
    return None


def _describe_owner(status: os.stat_result, path: Path) -> StoreOwner:
    try:
        entry = pwd.getpwuid(status.st_uid)
    except KeyError:  # a volume whose user this host does not know
        return StoreOwner(status.st_uid, (status.st_gid,), str(status.st_uid), "/", path)
    further = set(os.getgrouplist(entry.pw_name, entry.pw_gid)) - {entry.pw_gid}
    return StoreOwner(entry.pw_uid, (entry.pw_gid, *sorted(further)), entry.pw_name, entry.pw_dir, path)


def become_store_owner(owner: StoreOwner) -> None:
    """Give up root for good: groups, group, user, home. ConfigurationError where this process may not, or could not go on."""
    try:
        os.setgroups(owner.groups)
        os.setgid(owner.groups[0])
        os.setuid(owner.uid)
    except OSError as error:
        raise ConfigurationError(
            f"{owner.path} belongs to {owner.name}, and this process of root cannot become that user: {error.strerror}",
            hint=f"run it as that user: runuser -u {owner.name} -- radclipd ...",
        ) from error
    os.environ["HOME"] = owner.home
    for name in HOME_VARIABLES:
        os.environ.pop(name, None)
    for needed in (__file__, os.__file__):
        if not os.access(needed, os.R_OK):
            raise ConfigurationError(
                f"{owner.path} belongs to {owner.name}, who cannot read radclipd's own file {needed}",
                hint="install radclipd where every user can read it (make install), or give the store to root",
            )
