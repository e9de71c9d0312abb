"""The machine: configuration, files, model store, service, logs."""

from __future__ import annotations
