"""Extras of the package: libraries that the daemon does without."""

from __future__ import annotations

from importlib.util import find_spec

from pipeline.errors import FatalError

MODULES = {
    "lab": ("markdown_it", "matplotlib", "pyarrow"),
    "scale": ("pandas", "pyarrow", "ray"),
    "web": ("argon2", "fastapi", "itsdangerous", "jinja2", "python_multipart", "uvicorn"),
}
"""Extra of pyproject.toml -> modules that it brings."""


def require_extra(extra: str) -> None:
    """Raise FatalError, with the command that installs the extra, where a module of the extra is missing."""
    missing = [module for module in MODULES[extra] if find_spec(module) is None]
    if missing:
        raise FatalError(
            f"this verb needs the extra radclipd[{extra}]: no module {', '.join(missing)}",
            hint=f"EXTRAS={extra} deploy/install.sh, or in the sources: pip install --constraint constraints.txt '.[{extra}]'",
        )
