"""Torch at work: a loaded model version that scores images."""

from __future__ import annotations
