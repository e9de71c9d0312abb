"""The catalog that every contract is held against: the fake, SQLite and PostgreSQL in turn."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from adapters.catalog.catalog import SqlCatalog
from pipeline.ports.outside import Catalog
from tests.conftest import DATABASES
from tests.fakes import FakeCatalog


@pytest.fixture(params=["fake", *DATABASES])
def catalog(request: pytest.FixtureRequest, fresh_url: Callable[[str], str]) -> Iterator[Catalog]:
    if request.param == "fake":
        yield FakeCatalog()
        return
    real = SqlCatalog(fresh_url(request.param), busy_timeout_seconds=10)
    yield real
    real.dispose()


@pytest.fixture
def pass_time(catalog: Catalog) -> Callable[[float], None]:
    return catalog.tick if isinstance(catalog, FakeCatalog) else time.sleep
