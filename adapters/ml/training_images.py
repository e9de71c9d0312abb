"""Stored images -> features, activations and model inputs for training: from the activation cache, or else from the pixels.

Activations made from pixels are written to the cache. Either way they are rounded to half precision, and features are those of the
pixels, so that training does not depend on the contents of the cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import structlog
import torch

from adapters.ml.activation_cache import ActivationCache, activation_key
from adapters.ml.error_translation import translate_model_errors
from models.encoder.activations import SplitActivations, encode_images_fast, encode_split
from models.encoder.base import Base
from models.encoder.encoder import Encoder
from models.encoder.partition import partition
from models.errors import CannotPartition
from models.images.views import AugmentedViews
from models.training.fine_tuning import ACTIVATION_DTYPE
from models.training.recipe import Augmentation
from pipeline.domain import StoredInstance
from pipeline.errors import PixelsUnreadable
from pipeline.ports.images import ImageReader
from pipeline.ports.services import StageCallback

_BATCH_IMAGES = 64  # at a time
_BATCH_VIEWS = 32  # at a time through the frozen blocks: between two batches the caller may pause or stop
_UNAUGMENTED = AugmentedViews(Augmentation(views=1), seed=0)

_log = structlog.get_logger("radclipd.ml")


class TrainingImageReader:
    """Images as the encoder of one base encodes them. `k`: number of last blocks that the activations enter.

    `split_k` is k, or None for an encoder that cannot be split there. `serving_encoder` is the base's encoder in the precision of
    scoring: it makes the activations, which the cache shares with scoring.
    """

    def __init__(
        self, base: Base, pixels: ImageReader, cache: ActivationCache, *, k: int, serving_encoder: Encoder | None = None
    ) -> None:
        self._base, self._pixels, self._cache = base, pixels, cache
        self._serving_encoder = serving_encoder or base.encoder
        try:
            partition(base.encoder.network).last_parts(k)
        except CannotPartition:
            self.split_k: int | None = None
        else:
            self.split_k = k

    def read_views(
        self, instances: Sequence[StoredInstance], views: AugmentedViews, on_progress: StageCallback
    ) -> list[SplitActivations | None]:
        """Return activations float16 [V, L, W] and features float32 [V, D], on the CPU, of the views of each labelled image; None
        where it cannot be read. Needs `split_k`."""
        progress = _ReadProgress(on_progress, "labelled images", len(instances))
        return [found for batch in _split_batches(instances) for found in self._load_views(batch, views, progress, labelled=True)]

    def read_features(
        self, instances: Sequence[StoredInstance], stage: str, on_progress: StageCallback
    ) -> list[torch.Tensor | None]:
        """Return the base's unit vector float32 [D], on the CPU, of each image, from its pixels; None where it cannot be read."""
        progress, batches = _ReadProgress(on_progress, stage, len(instances)), _split_batches(instances)
        return [row for batch in batches for row in self._encode_features(self._read_model_inputs(batch, progress))]

    def read_archive(self, instances: Sequence[StoredInstance], on_progress: StageCallback) -> list[SplitActivations | None]:
        """Return activations float16 [L, W] and features float32 [D], on the CPU, of each unlabelled image; None where it cannot be
        read. Without `split_k` the activations are empty.
        """
        stage = "unlabelled images"
        if self.split_k is None:
            features = self.read_features(instances, stage, on_progress)
            return [None if row is None else SplitActivations(torch.zeros(0), row) for row in features]
        progress = _ReadProgress(on_progress, stage, len(instances))
        views = (
            found
            for batch in _split_batches(instances)
            for found in self._load_views(batch, _UNAUGMENTED, progress, labelled=False)
        )
        return [None if split is None else SplitActivations(split.activations[0], split.features[0]) for split in views]

    def read_model_input(self, instance: StoredInstance) -> torch.Tensor | None:
        """Return the model input [1, S, S] before normalisation, None where the instance cannot be read."""
        try:
            with translate_model_errors():
                return self._base.preprocess.make_model_input(self._pixels.read(instance))
        except PixelsUnreadable as error:
            _log.warning("image left out of training", error=str(error))
            return None

    def _encode_split(self, inputs: torch.Tensor) -> SplitActivations:
        """Encode model inputs [n, 1, S, S]; return the result on the CPU, with activations in float16."""
        assert self.split_k is not None
        split = encode_split(self._serving_encoder, self._base.preprocess.normalise(inputs), k=self.split_k)
        return SplitActivations(split.activations.to("cpu", ACTIVATION_DTYPE), split.features.cpu())

    def _load_views(
        self, instances: Sequence[StoredInstance], views: AugmentedViews, progress: _ReadProgress, *, labelled: bool
    ) -> list[SplitActivations | None]:
        names = [views.names(activation_key(instance)) for instance in instances]
        found = self._cache.read([name for own in names for name in own])
        missing = [instance for instance, own in zip(instances, names, strict=True) if any(name not in found for name in own)]
        progress.advance(len(instances) - len(missing))
        inputs = self._read_model_inputs(missing, progress)
        readable = [(instance, given) for instance, given in zip(missing, inputs, strict=True) if given is not None]
        found |= self._make_missing_views(readable, views, found, progress, labelled=labelled)
        return [
            SplitActivations.stack(found[name] for name in own) if all(name in found for name in own) else None for own in names
        ]

    def _read_model_inputs(self, instances: Sequence[StoredInstance], progress: _ReadProgress) -> list[torch.Tensor | None]:
        inputs = []
        for instance in instances:
            inputs.append(self.read_model_input(instance))
            progress.advance(1)
        return inputs

    def _make_missing_views(
        self,
        inputs: Sequence[tuple[StoredInstance, torch.Tensor]],
        views: AugmentedViews,
        known: Mapping[str, SplitActivations],
        progress: _ReadProgress,
        *,
        labelled: bool,
    ) -> dict[str, SplitActivations]:
        """Encode the views that are not known. Those of labelled images are always cached, others where there is room."""
        wanted = [
            (instance, model_input, number, name)
            for instance, model_input in inputs
            for number, name in enumerate(views.names(activation_key(instance)))
            if name not in known
        ]
        made: dict[str, SplitActivations] = {}
        for start in range(0, len(wanted), _BATCH_VIEWS):
            batch = wanted[start : start + _BATCH_VIEWS]
            split = self._encode_split(
                torch.stack(
                    [views.view(model_input, activation_key(instance), number) for instance, model_input, number, _ in batch]
                )
            )
            made |= {name: row for (_, _, _, name), row in zip(batch, map(SplitActivations, *split), strict=True)}
            rows = [row for row, (instance, *_) in enumerate(batch) if labelled or self._cache.admits(instance)]
            self._cache.write([batch[row][3] for row in rows], split.select(rows))
            progress.advance(0)
        return made

    def _encode_features(self, inputs: Sequence[torch.Tensor | None]) -> Iterator[torch.Tensor | None]:
        readable = [model_input for model_input in inputs if model_input is not None]
        pixels = self._base.preprocess.normalise(torch.stack(readable)) if readable else None
        rows = iter(encode_images_fast(self._base.encoder, pixels).cpu().clone() if pixels is not None else ())
        for model_input in inputs:
            yield None if model_input is None else next(rows)


class _ReadProgress:
    """Count of the images read, reported to a callback, which may wait or raise."""

    def __init__(self, on_progress: StageCallback, stage: str, total: int) -> None:
        self._on_progress, self._stage, self._total, self._done = on_progress, stage, total, 0

    def advance(self, count: int) -> None:
        """Report `count` more images; 0 reports the same count again."""
        self._done += count
        self._on_progress(self._stage, self._done, self._total)


def _split_batches(instances: Sequence[StoredInstance]) -> Iterator[Sequence[StoredInstance]]:
    for start in range(0, len(instances), _BATCH_IMAGES):
        yield instances[start : start + _BATCH_IMAGES]
