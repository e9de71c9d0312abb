"""A crontab line, as in Debian's crontab(5): 0 and 7 are Sunday; of day of month and day of week, both given, either is enough."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from cronsim import CronSim, CronSimError

MACROS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
SYNTAX = 'five fields: minute hour day-of-month month day-of-week, as "30 2 * * 1-5" or "0 3 * * sun"; or @daily'
FIELDS = 5


def check_crontab(line: str) -> str:
    """Check a crontab line; "" means no schedule. ValueError with the remedy, also for a line that no date fulfils."""
    if line.strip():
        next_time(line, datetime(2000, 1, 1, tzinfo=UTC))
    return line.strip()


def next_time(line: str, after: datetime) -> datetime:
    """Return the first time of the line after another time, in its time zone. ValueError."""
    expression = MACROS.get(line.strip().lower(), line)
    if expression.lstrip().startswith("@"):
        raise ValueError(f"{expression.strip()} is no time; {SYNTAX}, or one of {', '.join(MACROS)}")
    fields = expression.split()
    if len(fields) != FIELDS:
        raise ValueError(f"{len(fields)} fields; {SYNTAX}")
    if "#" in expression or "L" in f"{fields[2]}{fields[4]}".upper():
        raise ValueError(f"crontab(5) knows neither L nor #; {SYNTAX}")
    try:
        return next(CronSim(expression, after))
    except CronSimError as error:
        raise ValueError(f"{str(error)[:1].lower()}{str(error)[1:]}; {SYNTAX}") from error
    except StopIteration:
        raise ValueError("no date fulfils this line") from None


def next_time_from(line: str, moment: datetime) -> datetime:
    """Return the first time of the line at this moment or after it. ValueError."""
    return next_time(line, moment - timedelta(microseconds=1))
