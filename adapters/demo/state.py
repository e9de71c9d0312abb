"""What the chapters of the demonstration share: what was asked for, and how far the story has got."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from adapters.catalog import query
from adapters.demo.archives import HospitalArchive
from adapters.demo.installation import Installation
from adapters.demo.outcome import Outcome, Scores
from adapters.simulator.truth import Truth

FIRST = 4
"""Of what happens to every study, so many are told; of the others only their number."""
MANY = 40
"""Where there is no terminal for a bar: so many things are worth a line at each quarter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What was asked for."""

    studies: int = 320
    images: Path | None = None
    folder: Path | None = None
    hold: bool = False
    seed: int = 0
    embedded: bool = False
    architecture: str = ""  # of random numbers; empty: the demonstration encoder


class Failed(Exception):
    """The story did not end well; the message says where."""


@dataclass(frozen=True, slots=True)
class Sent:
    """A study that went to the archive."""

    number: int  # 1 for the first
    study_instance_uid: str
    title: str
    truth: Truth | None


@dataclass(slots=True)
class Demo:
    """The state of the story."""

    options: Options
    console: Console
    folder: Path
    radclipd_port: int = 0
    archive: HospitalArchive | None = None
    radclipd: Installation | None = None
    films: str = ""  # what the films are, in words
    sent: list[Sent] = field(default_factory=list)
    states: dict[str, tuple[str, str]] = field(default_factory=dict)  # study -> state, reason
    reports: dict[str, bytes] = field(default_factory=dict)  # study -> the SR that the archive holds
    scores: dict[str, Scores] = field(default_factory=dict)  # "zero-shot" -> what that version said, to be compared at the end
    said: dict[str, frozenset[str]] = field(default_factory=dict)  # study -> findings that the reader called present
    promoted: int | None = None  # version that learnt from it and serves
    outcome: Outcome | None = None

    def say(self, words: str) -> None:
        """Say one line of the story."""
        self.console.print(f"  {words}", highlight=False, markup=False, soft_wrap=True)

    def say_first(self, lines: Sequence[str], what: str) -> None:
        """Say the first few of many lines, and how many more there are."""
        for line in lines[:FIRST]:
            self.say(line)
        if len(lines) > FIRST:
            self.say(f"... and {len(lines) - FIRST} {what} more")

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """Ask radclipd's database."""
        return query.run(self.installed.catalog_url, sql)[1]

    @contextlib.contextmanager
    def bar(self, total: int) -> Iterator[Callable[[int, str], None]]:
        """Show how far something has got while it lasts: called with how many are done, and words. Off a terminal: a few lines."""
        columns = (TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        told = 0
        with Progress(*columns, console=self.console, transient=True, disable=not self.console.is_terminal) as progress:
            bar = progress.add_task("", total=total)

            def show(done: int, words: str) -> None:
                nonlocal told
                progress.update(bar, completed=done, description=words)
                if not self.console.is_terminal and total >= MANY and (quarters := 4 * done // total) > told:
                    told = quarters
                    self.say(f"{done} of {total}: {words}")

            yield show

    @property
    def truths(self) -> dict[str, Truth]:
        """What is known of the studies that were sent, and kept from radclipd."""
        return {sent.study_instance_uid: sent.truth for sent in self.sent if sent.truth is not None}

    @property
    def unread(self) -> dict[str, Truth]:
        """Of these, those of patients of whom no study was labelled."""
        truths = self.truths
        labelled = {truths[study].patient for study in self.said}
        return {study: truth for study, truth in truths.items() if truth.patient not in labelled}

    @property
    def installed(self) -> Installation:
        """The radclipd of this story."""
        assert self.radclipd is not None
        return self.radclipd

    @property
    def hospital(self) -> HospitalArchive:
        """The archive of this story."""
        assert self.archive is not None
        return self.archive
