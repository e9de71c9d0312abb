"""De-identification of radiographs for research: PS3.15 annex E, by an allow-list."""

from __future__ import annotations
