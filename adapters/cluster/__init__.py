"""Work on many machines at once, by Ray Data: an optional extra, `pip install radclipd[scale]`."""

from __future__ import annotations
