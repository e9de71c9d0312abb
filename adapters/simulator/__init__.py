"""The simulated hospital: phantom films, a scanner, a population. Nothing of the daemon imports it."""

from __future__ import annotations
