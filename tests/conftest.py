"""Fixtures that several folders share."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import settings

from adapters.catalog import schema
from adapters.catalog.catalog import SqlCatalog
from pipeline.ports.services import Catalog
from tests.builders import leftovers, postgres
from tests.builders.fakes.catalog import FakeCatalog

settings.register_profile("any machine", deadline=None)  # a busy one is no fault of an example
settings.load_profile("any machine")

signal.signal(signal.SIGINT, signal.default_int_handler)
"""A shell starts a background job with SIGINT ignored, and the processes that tests interrupt would inherit that."""


def pytest_configure(config: pytest.Config) -> None:
    leftovers.begin_session(is_worker=hasattr(config, "workerinput"))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None]:
    """End what a file of tests has left running: after its last test, when its fixtures have ended what is theirs."""
    try:
        yield
    finally:
        if nextitem is None or nextitem.path != item.path:
            leftovers.end_processes_of_file()


@pytest.fixture(scope="session")
def cluster() -> Iterator[postgres.Cluster]:
    with ExitStack() as ending:
        with leftovers.serving_the_session():
            running = ending.enter_context(postgres.cluster())
        yield running


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sqlite") / "template.db"
    schema.upgrade(f"sqlite:///{path}")
    return path


DATABASES = ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)]


@pytest.fixture
def fresh_url(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], str]:
    """Make a database with the schema on the engine of this name; return its URL."""

    def make(engine: str) -> str:
        if engine == "postgresql":
            running: postgres.Cluster = request.getfixturevalue("cluster")
            return running.upgraded()
        template: Path = request.getfixturevalue("sqlite_template")
        (tmp_path / "catalog.db").write_bytes(template.read_bytes())
        return f"sqlite:///{tmp_path / 'catalog.db'}"

    return make


@pytest.fixture(params=DATABASES)
def catalog_url(request: pytest.FixtureRequest, fresh_url: Callable[[str], str]) -> str:
    """A database with the schema: SQLite and PostgreSQL in turn."""
    return fresh_url(request.param)


@pytest.fixture
def sql_catalog(catalog_url: str) -> Iterator[SqlCatalog]:
    catalog = SqlCatalog(catalog_url, busy_timeout_seconds=10)
    yield catalog
    catalog.dispose()


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
