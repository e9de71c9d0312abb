"""`python -m adapters.cli`: the same as the console script."""

from __future__ import annotations

from adapters.cli import main

if __name__ == "__main__":  # not in the child processes of a verb
    main()
