from __future__ import annotations

from tests.models.conftest import no_network, one_thread

__all__ = ["no_network", "one_thread"]
