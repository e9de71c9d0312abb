"""Between processes of one machine: channels, shared memory, wake-ups, slots."""

from __future__ import annotations
