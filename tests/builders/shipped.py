"""The demonstration encoder that is shipped: tests that need it skip where its files are not."""

from __future__ import annotations

import pytest

from models import demo

shipped = pytest.mark.skipif(
    not ((demo.FOLDER / demo.WEIGHTS).is_file() and (demo.FOLDER / demo.CARD).is_file()),
    reason="the demonstration encoder is not in models/demo",
)
