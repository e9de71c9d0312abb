"""The configuration: sections, the file and its errors, types of values."""

from __future__ import annotations
