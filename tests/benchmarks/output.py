"""Output of a benchmark: its result, and nothing else, on standard output."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any


def prints_result_alone(main: Callable[[], str]) -> Callable[[], None]:
    """Print the text that `main` returns. Whatever else is written to standard output meanwhile goes to standard error.

    The descriptor itself is redirected: log lines of this process, of libraries in C and of child processes, too.
    """

    @wraps(main)
    def print_result() -> None:
        sys.stdout.flush()
        own = os.dup(1)
        os.dup2(2, 1)
        try:
            text = main()
        finally:
            sys.stdout.flush()
            os.dup2(own, 1)
            os.close(own)
        sys.stdout.write(text)

    return print_result


def format_result(measured: Mapping[str, Any], *, as_json: bool) -> str:
    """Return the results as one JSON object, or as one line per figure."""
    lines = [json.dumps(measured, allow_nan=False)] if as_json else [f"{name:44} {value}" for name, value in measured.items()]
    return "\n".join(lines) + "\n"
