"""The service: supervisor, health, systemd, signals, scheduler, logs, Prometheus."""

from __future__ import annotations
