"""State of the demonstration, shared by its steps: options and progress."""

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
from adapters.demo.evaluation import DemoEvaluation, StudyDecisions, StudyScores
from adapters.demo.installation import DemoInstallation
from adapters.simulator.truth import GroundTruth

MAX_LISTED = 4
"""Maximum number of studies or files listed individually; of the others the number is printed."""
MIN_TOTAL_FOR_PROGRESS_LINES = 40
"""Minimum total for progress lines at each quarter, printed where there is no terminal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOptions:
    """Options of the demonstration."""

    studies: int = 320
    images: Path | None = None
    folder: Path | None = None
    hold: bool = False
    seed: int = 0
    embedded: bool = False
    architecture: str = ""  # of an untrained encoder; empty for the demonstration encoder


class DemoFailed(Exception):
    """The demonstration failed; the message names the step."""


@dataclass(frozen=True, slots=True)
class SentStudy:
    """A study stored in the archive."""

    number: int  # 1 for the first
    study_instance_uid: str
    title: str
    truth: GroundTruth | None


@dataclass(slots=True)
class DemoState:
    """State of the demonstration."""

    options: DemoOptions
    console: Console
    folder: Path
    radclipd_port: int = 0
    archive: HospitalArchive | None = None
    radclipd: DemoInstallation | None = None
    films_description: str = ""  # description of the films
    sent_studies: list[SentStudy] = field(default_factory=list)
    study_states: dict[str, tuple[str, str]] = field(default_factory=dict)  # study -> state, reason
    reports: dict[str, bytes] = field(default_factory=dict)  # study -> the SR that the archive holds
    shown_study: str = ""  # whose report is printed
    decisions: dict[str, StudyDecisions] = field(default_factory=dict)  # as scores
    scores: dict[str, StudyScores] = field(default_factory=dict)  # "zero-shot" -> scores of that version, for the evaluation
    reader_findings: dict[str, frozenset[str]] = field(default_factory=dict)  # study -> findings the reader reported present
    promoted_version: int | None = None  # version from the labels, once it serves
    evaluation: DemoEvaluation | None = None

    def print_line(self, text: str) -> None:
        """Print one line."""
        self.console.print(f"  {text}", highlight=False, markup=False, soft_wrap=True)

    def print_first_lines(self, lines: Sequence[str], what: str) -> None:
        """Print the first lines and the number of the remaining ones."""
        for line in lines[:MAX_LISTED]:
            self.print_line(line)
        if len(lines) > MAX_LISTED:
            self.print_line(f"... and {len(lines) - MAX_LISTED} {what} more")

    def query_rows(self, sql: str) -> list[tuple[Any, ...]]:
        """Query radclipd's database."""
        return query.run(self.installation.catalog_url, sql)[1]

    @contextlib.contextmanager
    def progress_bar(self, total: int) -> Iterator[Callable[[int, str], None]]:
        """Show progress. Yields a function of the number done and a text; without a terminal it prints a few lines."""
        columns = (TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        printed_quarters = 0
        with Progress(*columns, console=self.console, transient=True, disable=not self.console.is_terminal) as progress:
            bar = progress.add_task("", total=total)

            def show(done: int, text: str) -> None:
                nonlocal printed_quarters
                progress.update(bar, completed=done, description=text)
                if (
                    not self.console.is_terminal
                    and total >= MIN_TOTAL_FOR_PROGRESS_LINES
                    and (quarters := 4 * done // total) > printed_quarters
                ):
                    printed_quarters = quarters
                    self.print_line(f"{done} of {total}: {text}")

            yield show

    @property
    def truths(self) -> dict[str, GroundTruth]:
        """Ground truth of the sent studies, hidden from radclipd."""
        return {sent.study_instance_uid: sent.truth for sent in self.sent_studies if sent.truth is not None}

    @property
    def unlabelled_truths(self) -> dict[str, GroundTruth]:
        """Ground truth of the sent studies of patients without any labelled study."""
        truths = self.truths
        labelled = {truths[study].patient for study in self.reader_findings}
        return {study: truth for study, truth in truths.items() if truth.patient not in labelled}

    @property
    def installation(self) -> DemoInstallation:
        """The installation of radclipd, once it exists."""
        assert self.radclipd is not None
        return self.radclipd

    @property
    def hospital_archive(self) -> HospitalArchive:
        """The archive, once it runs."""
        assert self.archive is not None
        return self.archive
