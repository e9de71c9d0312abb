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
from pipeline.errors import PermanentError, RadclipdError, StopRequested, TransientError
from pipeline.ports.backfill import BackfillCounts, BackfillObject, BackfillSource, BackfillUnit, DateRange
from pipeline.ports.services import Catalog, ImageStore, StageCallback
from pipeline.receive import ReceivePolicy, receive

log = logging.getLogger("radclipd.backfill")

BACKFILL_PRIORITY = 800
"""Of the score jobs of studies that a backfill brought: behind those that arrive, before the archive that is scored again."""
DAY_CLOSING_DELAY = timedelta(days=1)
"""A day is not done before another one is over: its last studies may still come, and the archive may live in another time zone."""
SECONDS_PER_MINUTE = 60.0
MAX_CONSECUTIVE_FAILURES = 10
"""Of parcels in a row that end a run: it is not they that are bad."""

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True, kw_only=True)
class BackfillPolicy:
    """`[backfill]` of the configuration, and what was asked for on the command line."""

    days_per_query: int = 7
    oldest_first: bool = False
    repeat_finished: bool = False  # look at days that are done once more, and try what failed
    max_tries: int = 8  # in a row, of what fails for now
    retry_base_seconds: float = 2.0
    retry_cap_seconds: float = 60.0


class Throttle:
    """At most so many instances a minute and so many bytes a second, on average; 0: as many as come.

    Who was slower than that does not catch up.
    """

    def __init__(
        self,
        *,
        max_instances_per_minute: float = 0,
        max_bytes_per_second: float = 0,
        sleep: Callable[[float], object] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._seconds_each = SECONDS_PER_MINUTE / max_instances_per_minute if max_instances_per_minute else 0.0
        self._seconds_a_byte = 1 / max_bytes_per_second if max_bytes_per_second else 0.0
        self._rest, self._clock, self._free_at = sleep, clock, float("-inf")

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

    source: BackfillSource
    catalog: Catalog
    images: ImageStore
    receive_policy: ReceivePolicy
    policy: BackfillPolicy
    on_progress: StageCallback
    sleep: Callable[[float], object] = time.sleep
    throttle: Callable[[int], None] = field(default_factory=Throttle)
    on_refused: Callable[[BackfillObject, RadclipdError], None] = lambda _piece, _error: None
    totals: BackfillCounts = field(default_factory=BackfillCounts, init=False)
    failed: int = field(default=0, init=False)
    _units_done: int = field(default=0, init=False)
    _units_expected: int = field(default=0, init=False)
    _consecutive_failures: int = field(default=0, init=False)

    def run(self, days: DateRange | None) -> BackfillCounts:
        """Take in what the source has of these days. TransientError or Refused where it had to give up; it can go on from there."""
        with self.catalog.read() as tx:
            done = tx.backfills.finished_days(self.source.name)
            closed = tx.now().date() - DAY_CLOSING_DELAY
        spans = self._plan_ranges(days, done)
        listed = 0
        for number, span in enumerate(spans):
            parcels = self._retry_transient(partial(self._list_units, span))
            listed += len(parcels)
            self._units_expected = round(listed * len(spans) / (number + 1))
            self._import_units(parcels)
            if span is not None:
                with self.catalog.begin() as tx:
                    tx.backfills.add_finished_days(self.source.name, [day for day in span if day < closed])
        return self.totals

    def _list_units(self, span: DateRange | None) -> list[BackfillUnit]:
        return list(self.source.list_units(span))

    def _plan_ranges(self, days: DateRange | None, done: Collection[date]) -> Sequence[DateRange | None]:
        if days is None or not self.source.supports_dates:
            return [None]
        left = [day for day in days if self.policy.repeat_finished or day not in done]
        spans = list(_split_ranges(left, self.policy.days_per_query))
        return spans if self.policy.oldest_first else spans[::-1]

    def _import_units(self, units: Sequence[BackfillUnit]) -> None:
        with self.catalog.read() as tx:
            concluded = tx.backfills.finished_units(
                self.source.name, [parcel.key for parcel in units], failed=not self.policy.repeat_finished
            )
        left = [parcel for parcel in units if concluded.get(parcel.key) != parcel.change_tag]
        self._units_done += len(units) - len(left)
        for parcel in left:
            self._report_progress()
            self.totals.add(self._retry_transient(partial(self._import_unit, parcel)))
            self._units_done += 1
            if self._consecutive_failures == MAX_CONSECUTIVE_FAILURES:
                raise PermanentError(
                    f"{MAX_CONSECUTIVE_FAILURES} in a row could not be had from {self.source.name}",
                    hint="radclipd backfill status tells why",
                )
        self._report_progress()

    def _report_progress(self) -> None:
        self.on_progress(f"parcels of {self.source.sender.address}", self._units_done, max(self._units_done, self._units_expected))

    def _retry_transient(self, act: Callable[[], Answer]) -> Answer:
        """Try again what fails for now, with rests; in the end give up, and leave the rest for another day."""
        attempt = 1
        while True:
            try:
                return act()
            except StopRequested:
                raise
            except TransientError as error:
                if attempt >= self.policy.max_tries:
                    raise
                log.warning("backfill waits", extra={"error": str(error), "hint": error.hint, "attempt": attempt})
                base, cap = self.policy.retry_base_seconds, self.policy.retry_cap_seconds
                self.sleep(rules.backoff(attempt - 1, base_seconds=base, cap_seconds=cap, jitter=1.0))
                attempt += 1
                self._report_progress()

    def _import_unit(self, unit: BackfillUnit) -> BackfillCounts:
        """Fetch a parcel and write down what became of it, in the transaction that says it is over."""
        opened = _UnitImport(self, unit)
        try:
            came = self.source.fetch(unit, self._find_stored, opened.store_object)
        except PermanentError as error:
            self._finish_unit(opened, str(error))
            self.failed, self._consecutive_failures = self.failed + 1, self._consecutive_failures + 1
            return opened.tally
        opened.tally.instances += came
        for _ in range(came):
            self.throttle(0)
        self._finish_unit(opened, "")
        self._consecutive_failures = 0
        return opened.tally

    def _finish_unit(self, opened: _UnitImport, error: str) -> None:
        with self.catalog.begin() as tx:
            tx.backfills.finish_unit(self.source.name, opened.parcel, opened.tally, opened.studies, error=error)
            if opened.parcel.study_instance_uid:
                tx.studies.mark_released([opened.parcel.study_instance_uid])
            if error:
                tx.audit(AuditEvent("backfill", "failed", opened.parcel.study_instance_uid, error, self.source.name[:128]))

    def _find_stored(self, sop_instance_uids: Collection[str]) -> set[str]:
        with self.catalog.read() as tx:
            found = [(uid, tx.studies.find_instance(uid)) for uid in sop_instance_uids]
        return {uid for uid, instance in found if instance is not None and self.images.exists(instance.file)}


class _UnitImport:
    """A parcel that is being taken in."""

    def __init__(self, run: Backfill, unit: BackfillUnit) -> None:
        self._run, self.parcel, self.tally = run, unit, BackfillCounts()
        self.studies: set[str] = set()
        if unit.study_instance_uid:  # before anything of it can arrive, on whatever way
            self._mark_backfilled(unit.study_instance_uid)

    def store_object(self, piece: BackfillObject) -> Receipt | None:
        """Take a piece in, as the listener would."""
        run = self._run
        run._report_progress()
        try:
            incoming = piece.read()
            if incoming is None:
                self.tally.others += 1
                return None
            header, content = incoming
            self._mark_backfilled(header.study_instance_uid)
            receipt = receive(header, content, run.source.sender, catalog=run.catalog, images=run.images, policy=run.receive_policy)
        except PermanentError as error:
            self._record_refusal(piece, error)
            return None
        if receipt is Receipt.DUPLICATE:
            self.tally.duplicates += 1
        else:
            self.tally.instances += 1
            self.tally.bytes += len(content)
        run.throttle(len(content))
        return receipt

    def _mark_backfilled(self, study_instance_uid: str) -> None:
        if study_instance_uid in self.studies:
            return
        with self._run.catalog.begin() as tx:
            tx.backfills.mark_backfilled(self._run.source.name, [study_instance_uid])
        self.studies.add(study_instance_uid)

    def _record_refusal(self, piece: BackfillObject, error: PermanentError) -> None:
        self.tally.refused += 1
        self._run.on_refused(piece, error)
        log.warning("instance refused", extra={"instance": piece.sop_instance_uid[:64], "why": str(error)})
        with self._run.catalog.begin() as tx:
            tx.audit(AuditEvent("receive", "refused", piece.sop_instance_uid[:64], str(error), self._run.source.name[:128]))


def _split_ranges(days: Sequence[date], longest: int) -> Iterator[DateRange]:
    """Cut ascending days into ranges without a gap, each of at most `longest` days. The last ranges are full ones."""
    end = len(days)
    found: list[DateRange] = []
    while end:
        start = end - 1
        while start and days[start] - days[start - 1] == timedelta(days=1) and end - start < longest:
            start -= 1
        found.append(DateRange(days[start], days[end - 1]))
        end = start
    return reversed(found)
