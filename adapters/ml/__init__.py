"""Torch at work: the scorer, the trainer, the activation cache."""

from __future__ import annotations
