"""Verbs and options that have another name since 0.2.0: each answers with one line that names the new one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperGroup

from adapters.service.exit_codes import USAGE

NEW_VERBS = {
    ("promote",): "versions promote",
    ("reject",): "versions reject",
    ("rollback",): "versions rollback",
    ("resend",): "reports resend",
    ("quarantine",): "jobs list --state quarantined",
    ("quarantine", "list"): "jobs list --state quarantined",
    ("quarantine", "retry"): "jobs retry",
    ("db", "tidy"): "db maintain",
    ("model", "list"): "versions list",
}
"""Old words of the command line -> new ones."""
FORMER_LISTINGS = ("jobs", "versions")
"""Groups whose name alone was a listing."""
NEW_OPTIONS = {
    ("versions", "reject"): ("--because", "--reason"),
    ("versions", "rollback"): ("--because", "--reason"),
    ("labels", "add"): ("--asked-because", "--selection-reason"),
    ("model", "import"): ("--marking", "--notice"),
    ("model", "fetch"): ("--marking", "--notice"),
}
"""Verb -> its old option and the new one."""


class VerbGroup(TyperGroup):
    """The verbs. An old verb is a usage error that names the new one."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command that the words name."""
        if not ctx.resilient_parsing and (found := find_new_verb(args)):  # resilient: a shell completes words
            old, new = found
            typer.echo(f"radclipd: `{old}` is now `radclipd {new}`", err=True)
            raise typer.Exit(USAGE)
        return super().resolve_command(ctx, args)


def find_new_verb(words: Sequence[str]) -> tuple[str, str] | None:
    """Return the old verb at the start of a command line and the new one; None where the words are no old verb."""
    for length in (2, 1):
        if new := NEW_VERBS.get(tuple(words[:length])):
            return " ".join(words[:length]), new
    first, second = [*words, "", ""][:2]
    old_option, new_option = NEW_OPTIONS.get((first, second), ("", ""))
    if old_option and any(word.split("=")[0] == old_option for word in words):
        return f"{first} {second} {old_option}", f"{first} {second} {new_option}"
    if first == "versions" and second.isdigit():
        return f"versions {second}", f"versions show {second}"
    if first in FORMER_LISTINGS and second.startswith("-") and second != "--help":
        return f"{first} {second}", f"{first} list {second}"
    return None
