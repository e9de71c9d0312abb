"""backfill: an archive, a range of days and a study at a time -> `receive`; no study twice, and behind arrivals.

The result of each unit (a study, or a few files) is recorded in the catalog, so a backfill that was stopped or killed resumes when
it is started again: finished days are not queried, finished units not fetched, and of other units only the missing instances.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from functools import partial
from typing import TypeVar

from pipeline.backoff import backoff_seconds
from pipeline.domain import AuditEvent, Receipt
from pipeline.errors import PermanentError, RadclipdError, StopRequested, TransientError
from pipeline.ports.backfill import BackfillCounts, BackfillObject, BackfillSource, BackfillUnit, DateRange
from pipeline.ports.services import Catalog, ImageStore, InstanceComparison, StageCallback
from pipeline.receive import ReceivePolicy, receive

log = logging.getLogger("radclipd.backfill")

DAY_CLOSING_DELAY = timedelta(days=1)
"""A day is finished this long after its end: its last studies may still arrive, and the archive's time zone may differ."""
SECONDS_PER_MINUTE = 60.0
MAX_CONSECUTIVE_FAILURES = 10
"""A run ends after this many failed units in a row, because the fault is then in the source rather than in the units."""

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class BackfillPolicy:
    """`[backfill]` of the configuration, and options of the command line."""

    days_per_query: int = 7  # largest number of days in one query
    oldest_first: bool = False
    repeat_finished: bool = False  # query finished days again, and fetch failed units again
    max_tries: int = 8  # consecutive attempts after a TransientError
    retry_base_seconds: float = 2.0
    retry_cap_seconds: float = 60.0


class Throttle:
    """Limits the average rate of instances and bytes; 0: unlimited. Time lost below the limit is not made up for."""

    def __init__(
        self,
        *,
        max_instances_per_minute: float = 0,
        max_bytes_per_second: float = 0,
        sleep: Callable[[float], object] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._seconds_per_instance = SECONDS_PER_MINUTE / max_instances_per_minute if max_instances_per_minute else 0.0
        self._seconds_per_byte = 1 / max_bytes_per_second if max_bytes_per_second else 0.0
        self._sleep, self._clock, self._free_at = sleep, clock, float("-inf")

    def __call__(self, size: int) -> None:
        """Wait until an instance of `size` bytes is within the limits. Time spent on fetching it counts."""
        now = self._clock()
        self._free_at = max(self._free_at, now) + max(self._seconds_per_instance, self._seconds_per_byte * size)
        if self._free_at > now:
            self._sleep(self._free_at - now)


@dataclass(kw_only=True)
class Backfill:
    """One run of a backfill."""

    source: BackfillSource
    catalog: Catalog
    images: ImageStore
    receive_policy: ReceivePolicy
    comparison: InstanceComparison | None = None
    policy: BackfillPolicy
    on_progress: StageCallback  # gets the number of finished units; may pause, or stop the run with StopRequested
    sleep: Callable[[float], object] = time.sleep  # waits, and may return early
    throttle: Callable[[int], None] = field(default_factory=Throttle)
    on_refused: Callable[[BackfillObject, RadclipdError], None] = lambda _object, _error: None  # gets each refused object
    totals: BackfillCounts = field(default_factory=BackfillCounts, init=False)
    failed: int = field(default=0, init=False)  # units that failed permanently in this run
    _units_done: int = field(default=0, init=False)
    _units_expected: int = field(default=0, init=False)
    _consecutive_failures: int = field(default=0, init=False)

    def run(self, days: DateRange | None) -> BackfillCounts:
        """Import the source's studies of these days, or all; return the counts.

        TransientError or PermanentError where the run had to end early; the next run resumes there. StopRequested.
        """
        with self.catalog.read() as tx:
            finished = tx.backfills.finished_days(self.source.name)
            open_from = tx.now().date() - DAY_CLOSING_DELAY
        ranges = self._plan_ranges(days, finished)
        listed = 0
        for number, days_of_query in enumerate(ranges):
            units = self._retry_transient(partial(self._list_units, days_of_query))
            listed += len(units)
            self._units_expected = round(listed * len(ranges) / (number + 1))
            self._import_units(units)
            if days_of_query is not None:
                with self.catalog.begin() as tx:
                    tx.backfills.add_finished_days(self.source.name, [day for day in days_of_query if day < open_from])
        return self.totals

    def _list_units(self, days: DateRange | None) -> list[BackfillUnit]:
        return list(self.source.list_units(days))

    def _plan_ranges(self, days: DateRange | None, finished: Collection[date]) -> Sequence[DateRange | None]:
        """Return the ranges to query, in order; [None] for everything at once."""
        if days is None or not self.source.supports_dates:
            return [None]
        remaining = [day for day in days if self.policy.repeat_finished or day not in finished]
        ranges = list(_split_ranges(remaining, self.policy.days_per_query))
        return ranges if self.policy.oldest_first else ranges[::-1]

    def _import_units(self, units: Sequence[BackfillUnit]) -> None:
        with self.catalog.read() as tx:
            finished = tx.backfills.finished_units(
                self.source.name, [unit.key for unit in units], failed=not self.policy.repeat_finished
            )
        remaining = [unit for unit in units if finished.get(unit.key) != unit.change_tag]
        self._units_done += len(units) - len(remaining)
        for unit in remaining:
            self._report_progress()
            self.totals.add(self._retry_transient(partial(self._import_unit, unit)))
            self._units_done += 1
            if self._consecutive_failures == MAX_CONSECUTIVE_FAILURES:
                raise PermanentError(
                    f"{MAX_CONSECUTIVE_FAILURES} in a row could not be had from {self.source.name}",
                    hint="radclipd backfill status tells why",
                )
        self._report_progress()

    def _report_progress(self) -> None:
        self.on_progress(f"units of {self.source.sender.address}", self._units_done, max(self._units_done, self._units_expected))

    def _retry_transient(self, act: Callable[[], Result]) -> Result:
        """Call `act`, again after a back-off where it raises TransientError; raise the error of the last attempt."""
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
                self.sleep(backoff_seconds(attempt - 1, base_seconds=base, cap_seconds=cap))
                attempt += 1
                self._report_progress()

    def _import_unit(self, unit: BackfillUnit) -> BackfillCounts:
        """Fetch a unit and record its result; return the counts."""
        unit_import = _UnitImport(self, unit)
        try:
            sent_to_listener = self.source.fetch(unit, self._find_stored, unit_import.store_object)
        except PermanentError as error:
            self._finish_unit(unit_import, str(error))
            self.failed, self._consecutive_failures = self.failed + 1, self._consecutive_failures + 1
            return unit_import.counts
        unit_import.counts.instances += sent_to_listener
        for _ in range(sent_to_listener):
            self.throttle(0)
        self._finish_unit(unit_import, "")
        self._consecutive_failures = 0
        return unit_import.counts

    def _finish_unit(self, unit_import: _UnitImport, error: str) -> None:
        unit = unit_import.unit
        with self.catalog.begin() as tx:
            tx.backfills.finish_unit(self.source.name, unit, unit_import.counts, unit_import.studies, error=error)
            if unit.study_instance_uid:
                tx.studies.mark_released([unit.study_instance_uid])
            if error:
                tx.audit(AuditEvent("backfill", "failed", unit.study_instance_uid, error, self.source.name[:128]))

    def _find_stored(self, sop_instance_uids: Collection[str]) -> set[str]:
        """Return the UIDs whose row and file are both in place."""
        with self.catalog.read() as tx:
            instances = [(uid, tx.studies.find_instance(uid)) for uid in sop_instance_uids]
        return {uid for uid, instance in instances if instance is not None and self.images.exists(instance.file)}


class _UnitImport:
    """The import of one unit."""

    def __init__(self, run: Backfill, unit: BackfillUnit) -> None:
        self._run, self.unit, self.counts = run, unit, BackfillCounts()
        self.studies: set[str] = set()
        if unit.study_instance_uid:  # before an instance of the study can arrive, by any route
            self._mark_backfilled(unit.study_instance_uid)

    def store_object(self, incoming: BackfillObject) -> Receipt | None:
        """Receive one object as the listener would; None where it was refused or is not wanted. TransientError."""
        run = self._run
        run._report_progress()
        try:
            instance = incoming.read()
            if instance is None:
                self.counts.others += 1
                return None
            header, content = instance
            self._mark_backfilled(header.study_instance_uid)
            receipt = receive(
                header,
                content,
                run.source.sender,
                catalog=run.catalog,
                images=run.images,
                policy=run.receive_policy,
                comparison=run.comparison,
            )
        except PermanentError as error:
            self._record_refusal(incoming, error)
            return None
        if receipt in (Receipt.DUPLICATE, Receipt.SAME_INSTANCE, Receipt.CONFLICT):
            self.counts.duplicates += 1
        else:
            self.counts.instances += 1
            self.counts.bytes += len(content)
        run.throttle(len(content))
        return receipt

    def _mark_backfilled(self, study_instance_uid: str) -> None:
        if study_instance_uid in self.studies:
            return
        with self._run.catalog.begin() as tx:
            tx.backfills.mark_backfilled(self._run.source.name, [study_instance_uid])
        self.studies.add(study_instance_uid)

    def _record_refusal(self, refused: BackfillObject, error: PermanentError) -> None:
        self.counts.refused += 1
        self._run.on_refused(refused, error)
        log.warning("instance refused", extra={"instance": refused.sop_instance_uid[:64], "why": str(error)})
        with self._run.catalog.begin() as tx:
            tx.audit(AuditEvent("receive", "refused", refused.sop_instance_uid[:64], str(error), self._run.source.name[:128]))


def _split_ranges(days: Sequence[date], longest: int) -> Iterator[DateRange]:
    """Split ascending days into ranges without gaps, each of at most `longest` days. Short ranges come first."""
    end = len(days)
    ranges: list[DateRange] = []
    while end:
        start = end - 1
        while start and days[start] - days[start - 1] == timedelta(days=1) and end - start < longest:
            start -= 1
        ranges.append(DateRange(days[start], days[end - 1]))
        end = start
    return reversed(ranges)
