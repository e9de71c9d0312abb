"""The page of benchmarks shows the results and the missed targets."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from tests.benchmarks import performance
from tests.benchmarks.performance import NAMES, TARGETS, write_page


def _ratio(median: float) -> dict[str, float]:
    return {"min": median - 0.1, "median": median, "max": median + 0.1}


def test_a_ratio_below_its_target_is_marked_missed(tmp_path: Path) -> None:
    measured: dict[str, dict[str, Any]] = {
        "scoring": {"films": 4, "ratios": {"vs_bare_encoder": _ratio(0.7), "vs_naive": _ratio(5.5)}},
        "startup": {"ratios": {"of_no_target": _ratio(1.0)}},
    }
    write_page(tmp_path / "performance.md", measured)
    rows = {line.split("`")[1]: line for line in (tmp_path / "performance.md").read_text().splitlines() if line.startswith("| `")}
    assert rows["scoring.vs_bare_encoder"] == "| `scoring.vs_bare_encoder` | 0.6 | 0.7 | 0.8 | 0.8 | **missed** |"
    assert rows["scoring.vs_naive"].endswith("| 5 | reached |")
    assert rows["startup.of_no_target"].endswith("|  |  |")
    assert (tmp_path / performance.PLOT).read_text().startswith("<?xml")


def test_every_benchmark_is_listed_and_every_target_belongs_to_one() -> None:
    for name in NAMES:
        assert importlib.util.find_spec(f"tests.benchmarks.{name}") is not None, name
        for target in TARGETS:
            benchmark, ratio = target.split(".")
            assert benchmark in NAMES
            if benchmark == name:
                assert ratio in (Path(performance.__file__).parent / f"{name}.py").read_text()
