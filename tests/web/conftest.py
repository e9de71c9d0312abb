"""A desk with a version, films and users."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.builders.desk import Desk


@pytest.fixture
def desk(sqlite_template: Path, tmp_path: Path) -> Iterator[Desk]:
    """A desk without films and users; version 1 serves."""
    (tmp_path / "catalog.db").write_bytes(sqlite_template.read_bytes())
    made = Desk(f"sqlite:///{tmp_path / 'catalog.db'}", tmp_path / "images")
    made.add_version()
    yield made
    made.close()
