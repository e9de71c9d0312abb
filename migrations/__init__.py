"""Alembic migrations; shipped in the wheel."""

from __future__ import annotations
