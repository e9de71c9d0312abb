"""Learning on several devices: ranks, launcher, orders."""

from __future__ import annotations
