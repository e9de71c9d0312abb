"""CPU time of a catalog: this process and, for PostgreSQL, its server. Other programs do not affect it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from adapters.catalog import query


def processor_clock(url: str) -> Callable[[], float]:
    """Return a clock of the CPU seconds of this process and the server."""
    if url.startswith("sqlite"):
        return time.process_time
    folder = Path(query.run(url, "SELECT current_setting('data_directory')")[1][0][0])
    postmaster = (folder / "postmaster.pid").read_text().split()[0]
    return lambda: time.process_time() + sum(_ticks(postmaster)) / os.sysconf("SC_CLK_TCK")


def _ticks(postmaster: str) -> Iterator[int]:
    """Yield the CPU ticks of each server process and its ended children; proc(5)."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # the process has ended meanwhile
            fields = stat.read_text().rpartition(")")[2].split()
            if stat.parent.name == postmaster:
                yield int(fields[13]) + int(fields[14])  # cutime, cstime
            elif fields[1] == postmaster:
                yield int(fields[11]) + int(fields[12])  # utime, stime
