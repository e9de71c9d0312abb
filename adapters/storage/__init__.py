"""Files of the machine: stored instances and model versions."""

from __future__ import annotations
