"""Fixtures: torch on one thread, and no network."""

from __future__ import annotations

from tests.builders.torch_fixtures import no_network, one_thread

__all__ = ["no_network", "one_thread"]
