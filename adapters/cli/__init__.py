"""The verbs."""

from __future__ import annotations
