"""Performance measures, their statistics, and the comparison that gates a candidate."""

from __future__ import annotations
