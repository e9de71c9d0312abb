"""All methods of the ladder by name, in the order of the tables."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from models.errors import UnknownMethod
from models.ladder.all_labels import AllLabels
from models.ladder.baselines import ChanceBaseline, MetadataBaseline, ZeroShotBaseline, ZeroShotCentred
from models.ladder.closed_form import Gda, SsText, StageOneMethod
from models.ladder.encoder_methods import ENCODER_METHODS
from models.ladder.method import Method
from models.ladder.paper_head import PaperHead
from models.ladder.probes import LinearProbe
from models.ladder.tip_adapter import TipAdapter

FROZEN_ENCODER_METHODS: tuple[Method, ...] = (
    ChanceBaseline(),
    MetadataBaseline(),
    ZeroShotBaseline("zero-shot-single", "single"),
    ZeroShotBaseline("zero-shot", "ensemble"),
    ZeroShotCentred(),
    PaperHead(),
    LinearProbe("linear-random", start="random"),
    LinearProbe("linear-text", start="text"),
    LinearProbe("clap", start="text", constrained=True),
    SsText(),
    TipAdapter("tip-adapter"),
    TipAdapter("tip-adapter-f", fine_tuned=True),
    Gda(),
    StageOneMethod(),
    AllLabels(),
)
"""Methods on frozen features: seconds on a CPU with cached features."""

LADDER: tuple[Method, ...] = (*FROZEN_ENCODER_METHODS, *ENCODER_METHODS)
"""Every method: those on frozen features, then those that fine-tune the encoder."""


def find_methods(names: Sequence[str]) -> list[Method]:
    """Return the methods of these names, in this order. Raise UnknownMethod with the nearest name."""
    by_name = {method.name: method for method in LADDER}
    for name in names:
        if name not in by_name:
            near = difflib.get_close_matches(name, by_name, n=1, cutoff=0.0)
            raise UnknownMethod(f"there is no method {name!r}", hint=f"did you mean {near[0]!r}? All: {', '.join(by_name)}")
    return [by_name[name] for name in names]
