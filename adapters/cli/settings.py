"""The global options, and the configuration and the parts that a verb works with."""

from __future__ import annotations

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
    """Load the configuration and start the log for this role. ConfigurationError."""
    from adapters.config import sections
    from adapters.service import logs

    loaded = sections.load(config_path_of(ctx))
    logs.configure(loaded.log, role=role)
    return loaded


@contextmanager
def parts_of(ctx: typer.Context, *, role: str = "") -> Iterator[Parts]:
    """Load the configuration, start the log for this role, and give the parts, closed at the end. ConfigurationError."""
    config = config_of(ctx, role=role)
    from adapters.app.compose import Parts

    with Parts(config) as parts:
        yield parts
