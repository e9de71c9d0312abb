"""The global options, and the configuration and the parts that a verb works with."""

from __future__ import annotations

import getpass
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from adapters.app.compose import Parts
    from adapters.config.sections import Config


@dataclass(slots=True)
class GlobalOptions:
    """The options before the verb."""

    path: Path | None


def config_path_of(ctx: typer.Context) -> Path | None:
    """Return the file that `--config` or RADCLIPD_CONFIG names; None for the default."""
    settings = ctx.find_root().obj
    return settings.path if isinstance(settings, GlobalOptions) else None


def config_of(ctx: typer.Context, *, role: str = "") -> Config:
    """Load the configuration, leave root, and start the log for this role. ConfigurationError.

    A process of root goes on as the owner of the store (`adapters.service.store_user`): every verb with a configuration does.
    """
    from adapters.config import sections
    from adapters.service import logs

    path = config_path_of(ctx)
    loaded = sections.load(path)
    if os.geteuid() == 0 and _leave_root(loaded):
        loaded = sections.load(path)  # with its secrets, as the owner can read them
    logs.configure(loaded.log, role=role)
    return loaded


def _leave_root(config: Config) -> bool:
    """Become the owner of the store where that is not root; return whether this process has."""
    from adapters.config.types import sqlite_path
    from adapters.service.store_user import become_store_owner, find_store_owner

    database = sqlite_path(config.catalog.url)
    owner = find_store_owner([config.storage.directory, *([database] if database else []), config.model.directory])
    if owner is None:
        return False
    become_store_owner(owner)
    typer.echo(f"radclipd: working as user {owner.name}, the owner of {owner.path}", err=True)
    return True


@contextmanager
def parts_of(ctx: typer.Context, *, role: str = "") -> Iterator[Parts]:
    """Load the configuration, start the log for this role, and give the parts, closed at the end. ConfigurationError."""
    config = config_of(ctx, role=role)
    from adapters.app.compose import Parts

    with Parts(config) as parts:
        yield parts


def name_user() -> str:
    """Name the user of this terminal for the audit."""
    try:
        return f"cli:{getpass.getuser()}"
    except (KeyError, OSError):
        return "cli"
