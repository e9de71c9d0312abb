"""The roles of `radclipd run`."""

from __future__ import annotations

from adapters.app.run import roles
from adapters.config.sections import Config, WebConfig


def test_the_desk_is_a_role_where_it_is_enabled() -> None:
    without = [role.name for role in roles(Config(), None)]
    assert "web" not in without
    assert [role.name for role in roles(Config(web=WebConfig(enabled=True)), None)] == [*without, "web"]
