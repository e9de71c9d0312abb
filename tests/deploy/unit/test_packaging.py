"""Our package names are generic: prove that nobody else's packages stand in their place."""

from __future__ import annotations

import importlib.metadata
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
OURS = ("pipeline", "adapters", "models", "migrations")


@pytest.mark.parametrize("name", OURS)
def test_the_name_is_ours(name: str) -> None:
    module = import_module(name)
    assert module.__file__ is not None
    assert Path(module.__file__).is_relative_to(ROOT)
    others = set(importlib.metadata.packages_distributions().get(name, [])) - {"radclipd"}
    assert not others, f"{others} ship a package called {name}, too"


def test_every_dependency_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + [d for group in project["optional-dependencies"].values() for d in group]
    assert all("==" in requirement for requirement in wanted)
    pinned = {line.strip().lower().replace("_", "-") for line in (ROOT / "constraints.txt").read_text().splitlines()}
    plain = {requirement.lower().replace("_", "-").replace("[binary]", "") for requirement in project["dependencies"]}
    assert plain <= pinned
