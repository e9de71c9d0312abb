"""All rungs of the ladder by name, in the order in which tables show them."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from models.errors import UnknownMethod
from models.ladder.all_labels import AllLabels
from models.ladder.baselines import Chance, Metadata, ZeroShot, ZeroShotCentred
from models.ladder.cache import TipAdapter
from models.ladder.closed_form import Gda, SsText, StageOne
from models.ladder.encoder_methods import ENCODER_METHODS
from models.ladder.method import Method
from models.ladder.paper_head import PaperHead
from models.ladder.probes import LinearProbe

FROZEN: tuple[Method, ...] = (
    Chance(),
    Metadata(),
    ZeroShot("zero-shot-single", "single"),
    ZeroShot("zero-shot", "ensemble"),
    ZeroShotCentred(),
    PaperHead(),
    LinearProbe("linear-random", start="random"),
    LinearProbe("linear-text", start="text"),
    LinearProbe("clap", start="text", held=True),
    SsText(),
    TipAdapter("tip-adapter"),
    TipAdapter("tip-adapter-f", trained=True),
    Gda(),
    StageOne(),
    AllLabels(),
)
"""Methods on frozen features: seconds on a CPU once the features are cached."""

LADDER: tuple[Method, ...] = (*FROZEN, *ENCODER_METHODS)
"""Every method there is: those on frozen features, then those that change the encoder."""


def methods(names: Sequence[str]) -> list[Method]:
    """Return the methods of these names, in this order. UnknownMethod names the nearest."""
    by_name = {method.name: method for method in LADDER}
    for name in names:
        if name not in by_name:
            near = difflib.get_close_matches(name, by_name, n=1, cutoff=0.0)
            raise UnknownMethod(f"there is no method {name!r}", hint=f"did you mean {near[0]!r}? All: {', '.join(by_name)}")
    return [by_name[name] for name in names]
