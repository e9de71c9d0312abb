"""Archive scoring on many machines with Ray Data: an optional extra, `pip install radclipd[scale]`."""

from __future__ import annotations
