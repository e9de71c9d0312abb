"""The daemon put together: one file a process, one composition root (`compose`)."""

from __future__ import annotations
