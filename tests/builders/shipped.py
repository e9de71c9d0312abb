"""Mark for tests of the shipped demonstration encoder: skipped where its files are missing."""

from __future__ import annotations

import pytest

from models import demo

shipped = pytest.mark.skipif(
    not ((demo.FOLDER / demo.WEIGHTS).is_file() and (demo.FOLDER / demo.CARD).is_file()),
    reason="the demonstration encoder is not in models/demo",
)
