"""Words from outside, as both databases take them."""

from __future__ import annotations

MAX_TEXT_LENGTH = 4000


def sanitise_text(text: str, limit: int = MAX_TEXT_LENGTH) -> str:
    """Return the text without NUL and lone surrogates, which PostgreSQL refuses, and not longer than its column."""
    return text.replace("\0", "").encode("utf-8", "replace").decode("utf-8")[:limit]
