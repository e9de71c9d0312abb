"""What a study costs, against how many there are: `python -m tests.benchmarks.catalog --plot FILE`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

LINES = {
    "fill_ms_a_study": "loaded in bulk",
    "put_in_line_ms_a_study": "put in line to be scored again",
    "scored_again_ms_a_study": "scored again, the encoder apart",
    "claim_and_finish_ms": "a job claimed and finished",
}


def draw(path: Path, measured: Mapping[str, Any]) -> None:
    """Draw a panel for each database, milliseconds against studies, both on logarithmic scales."""
    engines = sorted({name.split()[0] for name, value in measured.items() if isinstance(value, dict)})
    with rc_context({"svg.hashsalt": "radclipd", "font.size": 9}):
        figure = Figure(figsize=(4.2 * len(engines), 3.6), layout="constrained")
        panels = figure.subplots(1, len(engines), sharey=True, squeeze=False)[0]
        for panel, engine in zip(panels, engines, strict=True):
            sizes = sorted(int(name.split()[1]) for name in measured if name.startswith(f"{engine} "))
            for key, words in LINES.items():
                panel.plot(sizes, [measured[f"{engine} {size}"][key] for size in sizes], marker="o", label=words)
            panel.set(title=engine, xscale="log", yscale="log", xlabel="studies in the catalog")
        panels[0].set_ylabel("milliseconds a study")
        panels[0].legend(frameon=False)
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
