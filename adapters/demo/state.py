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
from adapters.demo.evaluation import DemoEvaluation, StudyScores
from adapters.demo.installation import DemoInstallation
from adapters.simulator.truth import GroundTruth

MAX_LISTED = 4
"""Of what happens to every study, so many are told; of the others only their number."""
MIN_TOTAL_FOR_PROGRESS_LINES = 40
"""Where there is no terminal for a bar: so many things are worth a line at each quarter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOptions:
    """What was asked for."""

    studies: int = 320
    images: Path | None = None
    folder: Path | None = None
    hold: bool = False
    seed: int = 0
    embedded: bool = False
    architecture: str = ""  # of random numbers; empty: the demonstration encoder


class DemoFailed(Exception):
    """The story did not end well; the message says where."""


@dataclass(frozen=True, slots=True)
class SentStudy:
    """A study that went to the archive."""

    number: int  # 1 for the first
    study_instance_uid: str
    title: str
    truth: GroundTruth | None


@dataclass(slots=True)
class DemoState:
    """The state of the story."""

    options: DemoOptions
    console: Console
    folder: Path
    radclipd_port: int = 0
    archive: HospitalArchive | None = None
    radclipd: DemoInstallation | None = None
    films_description: str = ""  # what the films are, in words
    sent_studies: list[SentStudy] = field(default_factory=list)
    study_states: dict[str, tuple[str, str]] = field(default_factory=dict)  # study -> state, reason
    reports: dict[str, bytes] = field(default_factory=dict)  # study -> the SR that the archive holds
    scores: dict[str, StudyScores] = field(default_factory=dict)  # "zero-shot" -> what that version said, to be compared at the end
    reader_findings: dict[str, frozenset[str]] = field(default_factory=dict)  # study -> findings that the reader called present
    promoted_version: int | None = None  # version that learnt from it and serves
    evaluation: DemoEvaluation | None = None

    def print_line(self, words: str) -> None:
        """Say one line of the story."""
        self.console.print(f"  {words}", highlight=False, markup=False, soft_wrap=True)

    def print_first_lines(self, lines: Sequence[str], what: str) -> None:
        """Say the first few of many lines, and how many more there are."""
        for line in lines[:MAX_LISTED]:
            self.print_line(line)
        if len(lines) > MAX_LISTED:
            self.print_line(f"... and {len(lines) - MAX_LISTED} {what} more")

    def query_rows(self, sql: str) -> list[tuple[Any, ...]]:
        """Ask radclipd's database."""
        return query.run(self.installation.catalog_url, sql)[1]

    @contextlib.contextmanager
    def progress_bar(self, total: int) -> Iterator[Callable[[int, str], None]]:
        """Show how far something has got while it lasts: called with how many are done, and words. Off a terminal: a few lines."""
        columns = (TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        told = 0
        with Progress(*columns, console=self.console, transient=True, disable=not self.console.is_terminal) as progress:
            bar = progress.add_task("", total=total)

            def show(done: int, words: str) -> None:
                nonlocal told
                progress.update(bar, completed=done, description=words)
                if (
                    not self.console.is_terminal
                    and total >= MIN_TOTAL_FOR_PROGRESS_LINES
                    and (quarters := 4 * done // total) > told
                ):
                    told = quarters
                    self.print_line(f"{done} of {total}: {words}")

            yield show

    @property
    def truths(self) -> dict[str, GroundTruth]:
        """What is known of the studies that were sent, and kept from radclipd."""
        return {sent.study_instance_uid: sent.truth for sent in self.sent_studies if sent.truth is not None}

    @property
    def unlabelled_truths(self) -> dict[str, GroundTruth]:
        """Of these, those of patients of whom no study was labelled."""
        truths = self.truths
        labelled = {truths[study].patient for study in self.reader_findings}
        return {study: truth for study, truth in truths.items() if truth.patient not in labelled}

    @property
    def installation(self) -> DemoInstallation:
        """The radclipd of this story."""
        assert self.radclipd is not None
        return self.radclipd

    @property
    def hospital_archive(self) -> HospitalArchive:
        """The archive of this story."""
        assert self.archive is not None
        return self.archive
