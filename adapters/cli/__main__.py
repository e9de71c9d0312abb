"""`python -m adapters.cli`: the same as the console script."""

from __future__ import annotations

from adapters.cli import main

main()
