"""Ports of the desk: users, drafts, readings, and rows of the promised views."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol

from pipeline.domain import Decision, DeskReading, Draft, JobKind, User
from pipeline.figures import ArchiveFigures, QueueFigures
from pipeline.ports.services import Transaction


class Users(Protocol):
    """Users of the desk."""

    def find(self, name: str) -> User | None:
        """Return the user, or None."""

    def all(self) -> list[User]:
        """Return every user, in order of name."""

    def add(self, user: User) -> None:
        """Insert a user."""

    def put(self, user: User) -> None:
        """Replace the user of this name."""

    def find_by_token(self, token_sha256: str) -> User | None:
        """Return the user whose token has this SHA-256 (hex), or None."""

    def add_token(self, name: str, token_sha256: str) -> None:
        """Store the SHA-256 of a token of this user."""

    def drop_tokens(self, name: str) -> int:
        """Delete the user's tokens; return their number."""


class Repetition(StrEnum):
    """Whether a film comes to its reader a second time."""

    NONE = "none"  # it was not drawn, it has come, or the reader has seen the model's result
    AHEAD = "ahead"
    DUE = "due"


class Readings(Protocol):
    """Drafts and readings. ValueError or KeyError where a study is not in the catalog."""

    def find_draft(self, study_instance_uid: str, reader: str) -> Draft | None:
        """Return the reader's draft, or None."""

    def put_draft(self, draft: Draft) -> None:
        """Insert or replace a draft."""

    def drop_draft(self, study_instance_uid: str, reader: str) -> None:
        """Delete the reader's draft, where there is one."""

    def find(self, reader: str, idempotency_key: str) -> DeskReading | None:
        """Return the reading of this key, or None."""

    def find_last(self, study_instance_uid: str, reader: str) -> DeskReading | None:
        """Return the reader's last reading of the study that was not skipped, or None."""

    def add(self, reading: DeskReading) -> None:
        """Insert a reading."""

    def add_document(self, reading: DeskReading, sop_instance_uid: str) -> None:
        """Insert the pending document of a stored reading."""

    def mark_revealed(self, study_instance_uid: str, reader: str) -> None:
        """Record that the desk shows the model's result on the study to this reader."""

    def is_revealed(self, study_instance_uid: str, reader: str) -> bool:
        """Tell whether the desk has shown the model's result on the study to this reader."""

    def open_requests(self, reader: str, *, limit: int, reserved_seconds: float) -> list[str]:
        """Return the StudyInstanceUIDs of the oldest requests that nobody has labelled and this reader has not skipped.

        Studies with another reader's draft of the last `reserved_seconds` are left out.
        """

    def second_readings(self, reader: str, *, share: float, limit: int) -> list[str]:
        """Return the StudyInstanceUIDs of the oldest requests for this reader that others have read, and this reader has not.

        Of those read at the desk a share (0..1) of all requests, the same for every reader, that depends on nothing but the number
        of the request; and every study with a doubtful label, until somebody has read it again.
        """

    def due_repeats(self, reader: str, *, share: float, days: float, limit: int) -> list[str]:
        """Return the StudyInstanceUIDs of the oldest requests that come to this reader a second time now: `Repetition.DUE`."""

    def find_repetition(self, study_instance_uid: str, reader: str, *, share: float, days: float) -> Repetition:
        """Tell whether the study comes to this reader a second time.

        Drawn are a share (0..1) of all requests; they are due `days` after the reader's last statement. Never where the reader has
        seen the model's result.
        """

    def repeated_pairs(self, reader: str = "") -> list[tuple[DeskReading, DeskReading]]:
        """Return first statement and repeat, of one reader or of all ("").

        Without repeats that followed a look at the model's result.
        """

    def count_open_requests(self, reader: str) -> int:
        """Return the number of requests that nobody has labelled and this reader has not skipped."""

    def count_readings(self, reader: str, *, hours: float) -> int:
        """Return the number of studies that the reader has labelled or skipped in the last `hours`."""


class ViewRows(Protocol):
    """Rows of the promised views (`v_studies`, ...)."""

    def columns(self, view: str) -> list[str]:
        """Return the view's columns in their order. KeyError for an unknown view."""

    def select(
        self,
        view: str,
        columns: Sequence[str] = (),
        *,
        where: Mapping[str, Any] | None = None,
        order: Sequence[str] = (),
        after: tuple[str, Any] | None = None,
        limit: int = 100,
    ) -> list[dict[str, Any]]:
        """Return up to `limit` rows. KeyError for an unknown view or column.

        `columns`: all where empty. `where`: column -> value, or a list of values. `order`: columns, descending with a leading "-".
        `after`: a column of `order`, with its sign, and the value behind which the rows begin.
        """

    def count(self, view: str, by: str, *, after: tuple[str, Any] | None = None) -> dict[str, int]:
        """Return value of the column `by` -> number of rows; `after` as in `select`."""


class Figures(Protocol):
    """Figures of the daemon."""

    def current_figures(self) -> QueueFigures:
        """Return the figures that change by the second."""

    def archive_figures(self) -> ArchiveFigures:
        """Return the counts of the archive."""

    def newest_decisions(self, *, studies: int) -> Mapping[tuple[str, Decision], int]:
        """Return the decisions by finding on the newest `studies` that the serving version has scored."""

    def finished_jobs(self, *, since: datetime) -> Mapping[JobKind, int]:
        """Return the jobs of each kind that were done since then; done jobs are kept for `work.keep_done_days`."""

    def received_bytes(self, *, since: datetime) -> int:
        """Return the size of the files that were received since then, bytes."""


class DeskTransaction(Transaction, Protocol):
    """One unit of work of the desk."""

    @property
    def users(self) -> Users: ...
    @property
    def readings(self) -> Readings: ...
    @property
    def views(self) -> ViewRows: ...
    @property
    def figures(self) -> Figures: ...


class DeskCatalog(Protocol):
    """The catalog as the desk sees it: a `services.Catalog` with more. OutOfResources where it is unreachable or stays locked."""

    def begin(self) -> AbstractContextManager[DeskTransaction]:
        """Open a transaction that may write."""

    def read(self) -> AbstractContextManager[DeskTransaction]:
        """Open a transaction that only reads."""
