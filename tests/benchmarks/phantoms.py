"""Rate of rendering films: `python -m tests.benchmarks.phantoms [--films 200] [--processes 2] [--json]`.

Films of an enriched population (most of them with a finding) at three sizes: films a second on the clock and of processor time,
and how much faster several processes are than one, measured side by side.
"""

from __future__ import annotations

import argparse
import os
import time

from adapters.simulator import population
from tests.benchmarks.output import format_result, prints_result_alone

SIZES = (112, 256, 512)
SITE, SEED, WARM_UP = "north", 11, 8


@prints_result_alone
def main() -> str:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--films", type=int, default=200)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    measured = measure(options.films, options.processes)
    return format_result(measured, as_json=options.json)


def measure(films: int, processes: int) -> dict[str, float]:
    """Return rates by size; the processor's own rate (`..._a_cpu_second`) does not suffer from others on the machine."""
    cases = population.enriched_cases(SITE, films + WARM_UP, seed=SEED, per_finding=max(1, films // 40))
    measured: dict[str, float] = {"films": films, "processes": processes, "cores": os.cpu_count() or 1}
    for edge in SIZES:
        one, own = _rate(cases, edge, 1)
        several, _ = _rate(cases, edge, processes)
        measured[f"films_a_second_{edge}_px_1_process"] = round(one, 1)
        measured[f"films_a_second_{edge}_px_{processes}_processes"] = round(several, 1)
        measured[f"ratio_{edge}_px"] = round(several / one, 2)
        measured[f"films_a_cpu_second_{edge}_px"] = round(own, 1)
    return measured


def _rate(cases: list[population.Case], edge: int, processes: int) -> tuple[float, float]:
    """Return films a second, by the clock and by this process's processor time, after the first ones."""
    made = population.take_films(cases, size=(edge, edge), workers=processes)
    for _ in range(WARM_UP):
        next(made)
    begun, used = time.perf_counter(), time.process_time()
    count = sum(1 for _ in made)
    spent = time.process_time() - used
    return count / (time.perf_counter() - begun), count / max(spent, 1e-9)


if __name__ == "__main__":
    main()
