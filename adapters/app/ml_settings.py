"""The configuration as the ML adapters read it. Apart from `policies`, for the listener and the dispatcher never load torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adapters.app.policies import reading_errors
from adapters.dicom.image.pixels import RENDERING_VERSION
from adapters.ml.activation_cache import ActivationCacheSettings

if TYPE_CHECKING:
    from adapters.config.sections import Config
    from adapters.ml.trainer import TrainerSettings

CACHE_RESERVE = 2
"""Multiple of `storage.min_free` that the activation cache leaves free: a cache never makes senders wait."""


def activation_cache_settings(config: Config) -> ActivationCacheSettings | None:
    """`[activation_cache]` as scoring and learning read it; None where it is off."""
    if not config.activation_cache.enabled:
        return None
    return ActivationCacheSettings(
        directory=config.activation_cache.directory,
        max_bytes=int(config.activation_cache.max_size),
        reserve_bytes=CACHE_RESERVE * int(config.storage.min_free),
        k=config.learn.unfrozen_blocks,
        rendering=RENDERING_VERSION,
    )


def trainer_settings(config: Config) -> TrainerSettings:
    """`[learn]` as the trainer reads it."""
    from adapters.ml.trainer import TrainerSettings
    from models.training.operating_point import OperatingPointSettings
    from models.training.recipe import Recipe
    from models.training.training_round import TrainingPlan

    wanted = config.learn
    return TrainerSettings(
        plan=TrainingPlan(
            method=wanted.method,
            recipe=Recipe(k=wanted.unfrozen_blocks),
            operating_point=OperatingPointSettings(
                specificity=wanted.specificity, calls=wanted.max_calls, even_odds=wanted.operating_point == "even-odds"
            ),
            max_folds=wanted.folds,
            seed=wanted.seed,
        ),
        min_positives=wanted.min_positives,
        errors=reading_errors(config),
        undetermined_margin=config.decision.undetermined_margin,
        device=config.model.device,
        devices=wanted.devices,
        threads=config.score.threads,
        precision=config.score.precision,
        cache_settings=activation_cache_settings(config),
        prior_prevalence=wanted.prior_prevalence,
    )
