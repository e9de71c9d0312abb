"""Fixtures of the acceptance tests."""

from __future__ import annotations

import pytest

from tests.builders.installation import Installation


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    installation = Installation(tmp_path_factory.mktemp("template"))
    installation.set_up()
    return installation
