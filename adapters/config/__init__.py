"""The configuration: sections, the file and its errors, renamed keys, types of values."""

from __future__ import annotations
