"""The readers' own tables: labels in as CSV in several hands' styles, labels and empty templates out."""

from __future__ import annotations
