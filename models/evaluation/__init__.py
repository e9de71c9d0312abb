"""Statistics of a comparison, and the measures of the gate."""

from __future__ import annotations
