"""backfill: an archive, days by days and study by study, through `receive`: never twice, and behind whatever arrives.

What was taken in is written down parcel by parcel, so a backfill that was stopped, or died, goes on where it was when it is
started again: days that are done are not asked for, studies that are done are not fetched, of the others only what is not here.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from functools import partial
from typing import TypeVar

from pipeline import rules
from pipeline.domain import AuditEvent, Receipt
from pipeline.errors import Interrupted, RadclipdError, Refused, TryAgain
from pipeline.ports.backfill import Days, Parcel, Piece, Source, Tally
from pipeline.ports.outside import Catalog, ImageStore, Watch
from pipeline.receive import ReceivePolicy, receive

log = logging.getLogger("radclipd.backfill")

PRIORITY = 800
"""Of the score jobs of studies that a backfill brought: behind those that arrive, before the archive that is scored again."""
STILL_OPEN = timedelta(days=1)
"""A day is not done before another one is over: its last studies may still come, and the archive may live in another time zone."""
MINUTE = 60.0
FAILURES = 10
"""Of parcels in a row that end a run: it is not they that are bad."""

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True, kw_only=True)
class BackfillPolicy:
    """`[backfill]` of the configuration, and what was asked for on the command line."""

    days: int = 7  # asked for at a time
    oldest_first: bool = False
    again: bool = False  # look at days that are done once more, and try what failed
    tries: int = 8  # in a row, of what fails for now
    retry_base_seconds: float = 2.0
    retry_cap_seconds: float = 60.0


class Throttle:
    """At most so many instances a minute and so many bytes a second, on average; 0: as many as come.

    Who was slower than that does not catch up.
    """

    def __init__(
        self,
        *,
        per_minute: float = 0,
        bytes_per_second: float = 0,
        rest: Callable[[float], object] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._seconds_each = MINUTE / per_minute if per_minute else 0.0
        self._seconds_a_byte = 1 / bytes_per_second if bytes_per_second else 0.0
        self._rest, self._clock, self._free_at = rest, clock, float("-inf")

    def __call__(self, size: int) -> None:
        """Wait as long as an instance of so many bytes may take; what it took already counts."""
        now = self._clock()
        self._free_at = max(self._free_at, now) + max(self._seconds_each, self._seconds_a_byte * size)
        if self._free_at > now:
            self._rest(self._free_at - now)


@dataclass(kw_only=True)
class Backfill:
    """One run. `watch` hears how many parcels are done, and may pause or stop it (Interrupted); `rest(seconds)` may wake early.

    `refused` hears of each piece that cannot be taken in, and why.
    """

    source: Source
    catalog: Catalog
    images: ImageStore
    receiving: ReceivePolicy
    policy: BackfillPolicy
    watch: Watch
    rest: Callable[[float], object] = time.sleep
    throttle: Callable[[int], None] = field(default_factory=Throttle)
    refused: Callable[[Piece, RadclipdError], None] = lambda _piece, _error: None
    total: Tally = field(default_factory=Tally, init=False)
    failed: int = field(default=0, init=False)
    _done: int = field(default=0, init=False)
    _expected: int = field(default=0, init=False)
    _failures: int = field(default=0, init=False)

    def run(self, days: Days | None) -> Tally:
        """Take in what the source has of these days. TryAgain or Refused where it had to give up; it can go on from there."""
        with self.catalog.read() as tx:
            done = tx.backfills.days_done(self.source.name)
            closed = tx.now().date() - STILL_OPEN
        spans = self._spans(days, done)
        listed = 0
        for number, span in enumerate(spans):
            parcels = self._persistently(partial(self._listed, span))
            listed += len(parcels)
            self._expected = round(listed * len(spans) / (number + 1))
            self._take_all(parcels)
            if span is not None:
                with self.catalog.begin() as tx:
                    tx.backfills.put_days_done(self.source.name, [day for day in span if day < closed])
        return self.total

    def _listed(self, span: Days | None) -> list[Parcel]:
        return list(self.source.parcels(span))

    def _spans(self, days: Days | None, done: Collection[date]) -> Sequence[Days | None]:
        if days is None or not self.source.dated:
            return [None]
        left = [day for day in days if self.policy.again or day not in done]
        spans = list(_runs(left, self.policy.days))
        return spans if self.policy.oldest_first else spans[::-1]

    def _take_all(self, parcels: Sequence[Parcel]) -> None:
        with self.catalog.read() as tx:
            concluded = tx.backfills.concluded(self.source.name, [parcel.key for parcel in parcels], failed=not self.policy.again)
        left = [parcel for parcel in parcels if concluded.get(parcel.key) != parcel.mark]
        self._done += len(parcels) - len(left)
        for parcel in left:
            self._watch()
            self.total.add(self._persistently(partial(self._take_in, parcel)))
            self._done += 1
            if self._failures == FAILURES:
                raise Refused(
                    f"{FAILURES} in a row could not be had from {self.source.name}", hint="radclipd backfill status tells why"
                )
        self._watch()

    def _watch(self) -> None:
        self.watch(f"parcels of {self.source.sender.address}", self._done, max(self._done, self._expected))

    def _persistently(self, act: Callable[[], Answer]) -> Answer:
        """Try again what fails for now, with rests; in the end give up, and leave the rest for another day."""
        attempt = 1
        while True:
            try:
                return act()
            except Interrupted:
                raise
            except TryAgain as error:
                if attempt >= self.policy.tries:
                    raise
                log.warning("backfill waits", extra={"error": str(error), "hint": error.hint, "attempt": attempt})
                base, cap = self.policy.retry_base_seconds, self.policy.retry_cap_seconds
                self.rest(rules.backoff(attempt - 1, base_seconds=base, cap_seconds=cap, chance=1.0))
                attempt += 1
                self._watch()

    def _take_in(self, parcel: Parcel) -> Tally:
        """Fetch a parcel and write down what became of it, in the transaction that says it is over."""
        opened = _Opened(self, parcel)
        try:
            came = self.source.fetch(parcel, self._known, opened.take)
        except Refused as error:
            self._conclude(opened, str(error))
            self.failed, self._failures = self.failed + 1, self._failures + 1
            return opened.tally
        opened.tally.instances += came
        for _ in range(came):
            self.throttle(0)
        self._conclude(opened, "")
        self._failures = 0
        return opened.tally

    def _conclude(self, opened: _Opened, error: str) -> None:
        with self.catalog.begin() as tx:
            tx.backfills.conclude(self.source.name, opened.parcel, opened.tally, opened.studies, error=error)
            if opened.parcel.study:
                tx.studies.release([opened.parcel.study])
            if error:
                tx.audit(AuditEvent("backfill", "failed", opened.parcel.study, error, self.source.name[:128]))

    def _known(self, sop_instance_uids: Collection[str]) -> set[str]:
        with self.catalog.read() as tx:
            found = [(uid, tx.studies.find_instance(uid)) for uid in sop_instance_uids]
        return {uid for uid, instance in found if instance is not None and self.images.exists(instance.file)}


class _Opened:
    """A parcel that is being taken in."""

    def __init__(self, run: Backfill, parcel: Parcel) -> None:
        self._run, self.parcel, self.tally = run, parcel, Tally()
        self.studies: set[str] = set()
        if parcel.study:  # before anything of it can arrive, on whatever way
            self._bring(parcel.study)

    def take(self, piece: Piece) -> Receipt | None:
        """Take a piece in, as the listener would."""
        run = self._run
        run._watch()
        try:
            incoming = piece.read()
            if incoming is None:
                self.tally.others += 1
                return None
            header, content = incoming
            self._bring(header.study_instance_uid)
            receipt = receive(header, content, run.source.sender, catalog=run.catalog, images=run.images, policy=run.receiving)
        except Refused as error:
            self._refuse(piece, error)
            return None
        if receipt is Receipt.DUPLICATE:
            self.tally.duplicates += 1
        else:
            self.tally.instances += 1
            self.tally.bytes += len(content)
        run.throttle(len(content))
        return receipt

    def _bring(self, study_instance_uid: str) -> None:
        if study_instance_uid in self.studies:
            return
        with self._run.catalog.begin() as tx:
            tx.backfills.bring(self._run.source.name, [study_instance_uid])
        self.studies.add(study_instance_uid)

    def _refuse(self, piece: Piece, error: Refused) -> None:
        self.tally.refused += 1
        self._run.refused(piece, error)
        log.warning("instance refused", extra={"instance": piece.uid[:64], "why": str(error)})
        with self._run.catalog.begin() as tx:
            tx.audit(AuditEvent("receive", "refused", piece.uid[:64], str(error), self._run.source.name[:128]))


def _runs(days: Sequence[date], longest: int) -> Iterator[Days]:
    """Cut ascending days into ranges without a gap, each of at most `longest` days. The last ranges are full ones."""
    end = len(days)
    found: list[Days] = []
    while end:
        start = end - 1
        while start and days[start] - days[start - 1] == timedelta(days=1) and end - start < longest:
            start -= 1
        found.append(Days(days[start], days[end - 1]))
        end = start
    return reversed(found)
