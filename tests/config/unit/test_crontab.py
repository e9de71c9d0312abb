"""`learn.cron` is crontab(5): compared with an implementation that only counts minutes."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.config.crontab import check_crontab, next_time, next_time_from
from adapters.service.scheduler import CrontabTrigger

MONDAY_NOON = datetime(2026, 11, 30, 12, tzinfo=UTC)
LIMITS = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))
DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")


def describe(line: str, after: datetime = MONDAY_NOON) -> str:
    return f"{next_time(line, after):%A %-d %B %H:%M}"


@pytest.mark.parametrize(
    ("line", "when"),
    [
        ("30 2 * * 0", "Sunday 6 December 02:30"),
        ("30 2 * * 7", "Sunday 6 December 02:30"),
        ("30 2 * * sun", "Sunday 6 December 02:30"),
        ("30 2 * * SUN", "Sunday 6 December 02:30"),
        ("30 2 * * 1", "Monday 7 December 02:30"),
        ("30 2 * * 6", "Saturday 5 December 02:30"),
        ("30 2 * * 1-5", "Tuesday 1 December 02:30"),
        ("30 2 * * 6-7", "Saturday 5 December 02:30"),
        ("30 2 * * 5-7/2", "Friday 4 December 02:30"),
        ("30 2 * * mon,wed", "Wednesday 2 December 02:30"),
        ("30 2 * * mon-wed", "Tuesday 1 December 02:30"),
        ("30 2 1 * 0", "Tuesday 1 December 02:30"),  # the first, or a Sunday
        ("30 2 13 * 5", "Friday 4 December 02:30"),
        ("30 2 13 * *", "Sunday 13 December 02:30"),
        ("30 2 */10 * 5", "Friday 11 December 02:30"),  # a field that begins with a star restricts: both
        ("30 2 1-31 * 5", "Tuesday 1 December 02:30"),  # a range does not begin with a star: either
        ("0 0 29 2 *", "Tuesday 29 February 00:00"),
        ("15 10,14 * jan mon", "Monday 4 January 10:15"),
        ("*/20 * * * *", "Monday 30 November 12:20"),
        ("30\t2  *   *  0", "Sunday 6 December 02:30"),
        ("@daily", "Tuesday 1 December 00:00"),
        ("@weekly", "Sunday 6 December 00:00"),
        ("@Monthly", "Tuesday 1 December 00:00"),
    ],
)
def test_a_line_means_what_cron_does(line: str, when: str) -> None:
    assert describe(line) == when
    assert check_crontab(line) == line.strip()


@pytest.mark.parametrize(
    "line",
    [
        "nightly",
        "30 2 * *",
        "30 2 * * * radclipd learn",
        "0 30 2 * * *",
        "61 2 * * *",
        "30 24 * * *",
        "30 2 0 * *",
        "30 2 32 * *",
        "30 2 * 13 *",
        "30 2 * 0 *",
        "30 2 * * 8",
        "30 2 * * -1",
        "30 2 * * sunday",
        "30 2 * * sat-mon",
        "30 2 L * *",
        "30 2 * * 5L",
        "30 2 * * 1#2",
        "30 2 15W * *",
        "*/0 * * * *",
        "5- * * * *",
        "30 2 31 2 *",
        "30 2 31 4,6 *",
        "@reboot",
        "@nightly",
        "30 2 * * ?",
        "30 2 * * 1.5",
        "-5 * * * *",
        ", * * * *",
    ],
)
def test_a_wrong_line_is_refused_with_the_remedy(line: str) -> None:
    with pytest.raises(ValueError, match=r"five fields|no date"):
        check_crontab(line)


def test_no_line_means_no_schedule() -> None:
    assert check_crontab("") == check_crontab("  ") == ""


def test_the_time_at_hand_counts_and_the_time_before_does_not() -> None:
    at = datetime(2026, 12, 6, 2, 30, tzinfo=UTC)
    assert next_time_from("30 2 * * 0", at) == at
    assert next_time("30 2 * * 0", at) == at + timedelta(days=7)
    late = at + timedelta(microseconds=1)
    assert next_time_from("30 2 * * 0", late) == at + timedelta(days=7)
    trigger = CrontabTrigger("30 2 * * 0")
    assert trigger.get_next_fire_time(None, at) == at
    assert trigger.get_next_fire_time(at, late) == at + timedelta(days=7)
    assert trigger.get_next_fire_time(at + timedelta(days=700), late) == at + timedelta(days=7)  # the clock was ahead


def expand(field: str, low: int, high: int) -> set[int]:
    found: set[int] = set()
    for part in field.split(","):
        span, _, step = part.partition("/")
        first, _, last = (f"{low}-{high}" if span == "*" else span).partition("-")
        found |= set(range(int(first), int(last or first) + 1, int(step or 1)))
    return found


def first_after(line: str, after: datetime, days: int = 3000) -> datetime | None:
    """Return the first time of a line of numbers, after crontab(5): every day is tried, then every minute of it."""
    minutes, hours, month_days, months, week_days = (expand(f, *limit) for f, limit in zip(line.split(), LIMITS, strict=True))
    _, _, month_day_field, _, week_day_field = line.split()

    def falls_on(day: date) -> bool:
        by_month_day, by_week_day = day.day in month_days, bool({day.isoweekday(), day.isoweekday() % 7} & week_days)
        starred = month_day_field.startswith("*") or week_day_field.startswith("*")
        return day.month in months and ((by_month_day and by_week_day) if starred else (by_month_day or by_week_day))

    for offset in range(days):
        day = after.date() + timedelta(days=offset)
        if falls_on(day):
            for hour in sorted(hours):
                for minute in sorted(minutes):
                    moment = datetime(day.year, day.month, day.day, hour, minute, tzinfo=UTC)
                    if moment > after:
                        return moment
    return None


@st.composite
def fields(draw: st.DrawFn, low: int, high: int) -> str:
    def part() -> str:
        first = draw(st.integers(low, high))
        kind = draw(st.sampled_from(("number", "range", "stepped", "star", "starred")))
        last, step = draw(st.integers(first, high)), draw(st.integers(1, high))
        return {
            "number": f"{first}",
            "range": f"{first}-{last}",
            "stepped": f"{first}-{last}/{step}" if last > first else f"{first}",
            "star": "*",
            "starred": f"*/{step}",
        }[kind]

    return ",".join(part() for _ in range(draw(st.integers(1, 2))))


@given(
    line=st.tuples(*(fields(low, high) for low, high in LIMITS)).map(" ".join),
    after=st.datetimes(datetime(2024, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC)),
)
@settings(max_examples=300, deadline=None)
def test_every_line_of_numbers_agrees_with_counting_minutes(line: str, after: datetime) -> None:
    expected = first_after(line, after)
    if expected is None:
        return
    assert next_time(line, after) == expected
    named = line.split()
    if named[4].isdigit():
        assert next_time(" ".join([*named[:4], DAYS[int(named[4]) % 7]]), after) == expected
    if named[3].isdigit():
        assert next_time(" ".join([*named[:3], MONTHS[int(named[3]) - 1], named[4]]), after) == expected
