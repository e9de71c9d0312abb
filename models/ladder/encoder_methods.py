"""The methods that fine-tune the encoder, from the fewest to the most parameters, and radclipd's own method."""

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
"""Numbers of unfrozen last blocks."""


def make_encoder_methods(recipe: Recipe | None = None) -> tuple[Method, ...]:
    """Return the methods. They share the activations of the current benchmark; the two methods of one k share a fit.

    A method raises CannotPartition on a benchmark whose encoder has fewer blocks than its k.
    """
    recipe, activations = recipe or Recipe(), SharedActivations()
    partial: list[Method] = []
    for k in UNFROZEN_BLOCKS:
        fits = SharedFits(k, recipe, activations)
        partial += [PartialUnfreezing(f"partial-k{k}", fits), PartialUnfreezing(f"partial-k{k}-wise", fits, averaged=True)]
    full = PartialUnfreezing("full", SharedFits(None, recipe, activations))
    return (
        ProjectionOnly(recipe),
        LowRankAdaptation(recipe, activations),
        *partial,
        full,
        RadclipdMethod(activations, TrainingPlan(recipe=recipe)),
    )


ENCODER_METHODS = make_encoder_methods()
"""The encoder methods with the default recipe."""
