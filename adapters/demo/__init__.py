"""The demonstration that `make demo` runs: simulated hospital, archive, daemon, readers."""

from __future__ import annotations
