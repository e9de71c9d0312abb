"""The virtual hospital: films, a scanner, an archive, the demonstration. Nothing of the daemon imports it."""

from __future__ import annotations
