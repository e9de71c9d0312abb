"""The methods of the few-shot comparison, one small class each. All are multi-label: independent binary classifiers."""

from __future__ import annotations
