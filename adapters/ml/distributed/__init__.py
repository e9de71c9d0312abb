"""Training on several devices: a pool of rank processes, started by torchrun."""

from __future__ import annotations
