"""Simulated hospital: phantom films, scanner, patient population. No module of the daemon imports this package."""

from __future__ import annotations
