"""The global options: where the configuration is."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from adapters.config.sections import Config


@dataclass(slots=True)
class GlobalOptions:
    """What stood before the verb."""

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


def command_line(path: Path | None) -> list[str]:
    """Return the start of a command line that runs a verb of this radclipd with this configuration; -P keeps the folder out."""
    return [sys.executable, "-P", "-m", "adapters.cli", *(["--config", str(path)] if path else [])]
