"""Model inputs made on the device that encodes them: copy, window and resize of stored values."""

from __future__ import annotations
