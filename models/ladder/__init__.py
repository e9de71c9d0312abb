"""The methods that few-shot adaptation is compared with, one small class each. All multi-label: independent binaries."""

from __future__ import annotations
