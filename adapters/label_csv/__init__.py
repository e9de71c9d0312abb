"""Tables of labels (CSV): import, export, templates."""

from __future__ import annotations
