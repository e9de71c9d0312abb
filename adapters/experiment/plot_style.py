"""Style of the plots: one page width, few inks, labels at the ends of lines instead of a legend.

matplotlib, of the extra `lab`, is imported only for drawing: the demo's modules can be imported without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from models.experiment.summary import PRODUCT

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

INK, FAINT = "#222222", "#8a8a8a"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a5195", "#5c6b00")
"""Colours for the colour-blind after Okabe and Ito (2008), without yellow."""
DASHES: tuple[tuple[int, tuple[float, ...]], ...] = ((0, ()), (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))
"""Dash patterns; the colours repeat with the next pattern."""
BAND_OPACITY = 0.13
DPI = 144
MATPLOTLIB_RC: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "lines.linewidth": 1.4,
    "lines.markersize": 3.5,
    "text.color": INK,
    "svg.hashsalt": "radclipd",
}
MIN_LABEL_GAP = 0.034
"""Minimum distance of two labels, as a share of the height of the axes."""


class CurveStyle(NamedTuple):
    """Line style of one method."""

    colour: str
    dash: tuple[int, tuple[float, ...]]
    width: float = 1.4


REFERENCE_STYLES = {
    "chance": CurveStyle(FAINT, DASHES[2], 1.0),
    "metadata": CurveStyle(FAINT, DASHES[0], 1.0),
    "zero-shot-single": CurveStyle(FAINT, DASHES[1], 1.0),
    "zero-shot-centred": CurveStyle(FAINT, DASHES[3], 1.0),
    "zero-shot": CurveStyle(INK, DASHES[1], 1.6),
    "all-labels": CurveStyle(INK, DASHES[2], 1.6),
}
"""Styles of reference methods, the same in every plot."""
PRODUCT_STYLES = {PRODUCT: CurveStyle(INK, DASHES[0], 2.2)}
"""Style of the product, the most prominent."""


def curve_styles(methods: Sequence[str]) -> dict[str, CurveStyle]:
    """Return the style of each method, determined by the list."""
    fixed = REFERENCE_STYLES | PRODUCT_STYLES
    loud = [method for method in methods if method not in fixed]
    drawn = {
        method: CurveStyle(COLOURS[place % len(COLOURS)], DASHES[place // len(COLOURS) % len(DASHES)])
        for place, method in enumerate(loud)
    }
    return {method: fixed.get(method) or drawn[method] for method in methods}


def legend_handle(style: CurveStyle) -> Line2D:
    """Return the legend handle of a style."""
    from matplotlib.lines import Line2D

    return Line2D([], [], color=style.colour, linestyle=style.dash, linewidth=style.width)


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure, inches, with its own canvas, without global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: Path, *, notice: str) -> Path:
    """Write a PNG with the notice of the encoder at the bottom."""
    from matplotlib import rc_context

    if notice:
        figure.supxlabel(notice, fontsize=8, color=COLOURS[1], x=0.01, ha="left")
    path.parent.mkdir(parents=True, exist_ok=True)
    with rc_context(MATPLOTLIB_RC):
        figure.savefig(path, dpi=DPI, metadata={"Software": None})
    return path


def label_ends(axes: Axes, ends: Sequence[tuple[str, float, str]]) -> None:
    """Write each name at the right of the axes, at the height of its value or the nearest free one. `ends`: name, value, colour."""
    low, high = axes.get_ylim()
    places = spread_labels([(value - low) / (high - low) for _, value, _ in ends], MIN_LABEL_GAP)
    for (name, _, colour), place in zip(ends, places, strict=True):
        axes.text(1.015, place, name, transform=axes.transAxes, color=colour, fontsize=7.5, va="center", clip_on=False)


def spread_labels(heights: Sequence[float], gap: float) -> list[float]:
    """Return heights at least `gap` apart and close to the given ones, by an upward and a downward sweep."""
    order = sorted(range(len(heights)), key=lambda place: heights[place])
    moved = [heights[place] for place in order]
    for place in range(1, len(moved)):
        moved[place] = max(moved[place], moved[place - 1] + gap)
    excess = max(0.0, moved[-1] - 1.0) if moved else 0.0
    if excess:
        moved[-1] -= excess
        for place in range(len(moved) - 2, -1, -1):
            moved[place] = min(moved[place], moved[place + 1] - gap)
    placed = [0.0] * len(heights)
    for place, height in zip(order, moved, strict=True):
        placed[place] = height
    return placed
