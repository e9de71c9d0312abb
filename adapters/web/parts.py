"""The parts that the desk is made of, and what a route finds in the application's state."""

from __future__ import annotations

from dataclasses import dataclass, field

from starlette.requests import HTTPConnection

from adapters.web.film_bytes import FilmCache
from adapters.web.sessions import LogInLimit, SessionCookies
from pipeline.ports.desk import DeskCatalog
from pipeline.rules import ChestPolicy
from pipeline.worklist import WorklistPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class DeskSettings:
    """`[web]`, `[study]` and `[worklist]` of the configuration, as the desk reads them."""

    chest: ChestPolicy
    worklist: WorklistPolicy
    has_tls: bool = False  # browsers reach the desk by https: cookies are Secure


@dataclass(frozen=True, slots=True, kw_only=True)
class DeskParts:
    """What the routes need."""

    catalog: DeskCatalog
    films: FilmCache
    cookies: SessionCookies
    settings: DeskSettings
    limit: LogInLimit = field(default_factory=LogInLimit)


def parts_of(connection: HTTPConnection) -> DeskParts:
    """Return the parts of the application that serves this request."""
    parts: DeskParts = connection.app.state.parts
    return parts
