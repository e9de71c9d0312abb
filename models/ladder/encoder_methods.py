"""The rungs that change the encoder, from the least to the most of it, and the product, which may."""

from __future__ import annotations

from models.ladder.bench_activations import SharedActivations
from models.ladder.lora import LowRankAdaptation
from models.ladder.method import Method
from models.ladder.partial import PartialUnfreezing, SharedFits
from models.ladder.product import RadclipdMethod
from models.ladder.prolip import ProjectionOnly
from models.training.recipe import Recipe
from models.training.training_round import TrainingPlan

UNFROZEN_BLOCKS = (1, 2, 3)
"""How many last blocks are unfrozen."""


def make_encoder_methods(recipe: Recipe | None = None) -> tuple[Method, ...]:
    """Return the methods, which share the activations of the bench in use, and each two of the same k one fit.

    A method whose k is more than the blocks of a bench's encoder raises CannotPartition on it.
    """
    recipe, prefixes = recipe or Recipe(), SharedActivations()
    partial: list[Method] = []
    for k in UNFROZEN_BLOCKS:
        fits = SharedFits(k, recipe, prefixes)
        partial += [PartialUnfreezing(f"partial-k{k}", fits), PartialUnfreezing(f"partial-k{k}-wise", fits, averaged=True)]
    full = PartialUnfreezing("full", SharedFits(None, recipe, prefixes))
    return (
        ProjectionOnly(recipe),
        LowRankAdaptation(recipe, prefixes),
        *partial,
        full,
        RadclipdMethod(prefixes, TrainingPlan(recipe=recipe)),
    )


ENCODER_METHODS = make_encoder_methods()
"""The methods with the default recipe."""
