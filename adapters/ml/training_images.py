"""Stored films -> what learning needs of them: from the prefix store what is there, from the pixels the rest, which is then kept.

Either way the activations are rounded to half precision, and features are those of the pixels, so what is learnt does not depend
on which way they came.
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
_BATCH_VIEWS = 32  # at a time through the frozen blocks: between two of them learning may be told to wait
_UNAUGMENTED = AugmentedViews(Augmentation(views=1), seed=0)

_log = structlog.get_logger("radclipd.gpu")


class TrainingImageReader:
    """Films as the encoder of one base sees them. `k`: in front of how many last blocks it is cut.

    `cut` is k, or None where the tower cannot be cut there. `front` is the base's encoder as it serves: what it gives in front of
    the cut is what `kept` keeps.
    """

    def __init__(
        self, base: Base, pixels: ImageReader, cache: ActivationCache, *, k: int, serving_encoder: Encoder | None = None
    ) -> None:
        self._base, self._pixels, self._kept = base, pixels, cache
        self._front = serving_encoder or base.encoder
        try:
            partition(base.encoder.network).last_parts(k)
        except CannotPartition:
            self.split_k: int | None = None
        else:
            self.split_k = k

    def read_views(
        self, instances: Sequence[StoredInstance], views: AugmentedViews, watch: StageCallback
    ) -> list[SplitActivations | None]:
        """Return activations float16 [V, L, W] and features float32 [V, D] on the CPU of each labelled film's copies, None where it
        cannot be read. Only of a tower with a cut."""
        progress = _ReadProgress(watch, "labelled films", len(instances))
        return [found for some in _split_batches(instances) for found in self._load_views(some, views, progress, labelled=True)]

    def read_features(self, instances: Sequence[StoredInstance], what: str, watch: StageCallback) -> list[torch.Tensor | None]:
        """Return the base's unit vector float32 [D] on the CPU of each film, None where it cannot be read."""
        progress = _ReadProgress(watch, what, len(instances))
        if self.split_k is None:
            return [
                row for some in _split_batches(instances) for row in self._encode_features(self._read_model_inputs(some, progress))
            ]
        copies = (
            found for some in _split_batches(instances) for found in self._load_views(some, _UNAUGMENTED, progress, labelled=False)
        )
        return [None if found is None else found.features[0] for found in copies]

    def read_model_input(self, instance: StoredInstance) -> torch.Tensor | None:
        """Return its grey square [1, S, S], None where it cannot be read."""
        try:
            with translate_model_errors():
                return self._base.preprocess.make_model_input(self._pixels.read(instance))
        except PixelsUnreadable as error:
            _log.warning("film left out of learning", error=str(error))
            return None

    def _encode_split(self, inputs: torch.Tensor) -> SplitActivations:
        """Return what the base makes of grey squares [n, 1, S, S], on the CPU, the activations float16."""
        assert self.split_k is not None
        made = encode_split(self._front, self._base.preprocess.normalise(inputs), k=self.split_k)
        return SplitActivations(made.activations.to("cpu", ACTIVATION_DTYPE), made.features.cpu())

    def _load_views(
        self, instances: Sequence[StoredInstance], views: AugmentedViews, progress: _ReadProgress, *, labelled: bool
    ) -> list[SplitActivations | None]:
        names = [views.names(activation_key(film)) for film in instances]
        found = self._kept.read([name for own in names for name in own])
        lacking = [film for film, own in zip(instances, names, strict=True) if any(name not in found for name in own)]
        progress.advance(len(instances) - len(lacking))
        squares = self._read_model_inputs(lacking, progress)
        read = [(film, square) for film, square in zip(lacking, squares, strict=True) if square is not None]
        found |= self._make_missing_views(read, views, found, progress, labelled=labelled)
        return [
            SplitActivations.stack(found[name] for name in own) if all(name in found for name in own) else None for own in names
        ]

    def _read_model_inputs(self, instances: Sequence[StoredInstance], progress: _ReadProgress) -> list[torch.Tensor | None]:
        found = []
        for film in instances:
            found.append(self.read_model_input(film))
            progress.advance(1)
        return found

    def _make_missing_views(
        self,
        films: Sequence[tuple[StoredInstance, torch.Tensor]],
        views: AugmentedViews,
        known: Mapping[str, SplitActivations],
        progress: _ReadProgress,
        *,
        labelled: bool,
    ) -> dict[str, SplitActivations]:
        """Make the copies that are not known and keep them: those of labelled films always, others where there is room."""
        wanted = [
            (film, square, number, name)
            for film, square in films
            for number, name in enumerate(views.names(activation_key(film)))
            if name not in known
        ]
        made: dict[str, SplitActivations] = {}
        for start in range(0, len(wanted), _BATCH_VIEWS):
            some = wanted[start : start + _BATCH_VIEWS]
            images = self._encode_split(
                torch.stack([views.view(square, activation_key(film), number) for film, square, number, _ in some])
            )
            made |= {name: row for (_, _, _, name), row in zip(some, map(SplitActivations, *images), strict=True)}
            keep = [row for row, (film, *_) in enumerate(some) if labelled or self._kept.admits(film)]
            self._kept.write([some[row][3] for row in keep], images.select(keep))
            progress.advance(0)
        return made

    def _encode_features(self, inputs: Sequence[torch.Tensor | None]) -> Iterator[torch.Tensor | None]:
        there = [square for square in inputs if square is not None]
        pixels = self._base.preprocess.normalise(torch.stack(there)) if there else None
        rows = iter(encode_images_fast(self._base.encoder, pixels).cpu().clone() if pixels is not None else ())
        for square in inputs:
            yield None if square is None else next(rows)


class _ReadProgress:
    """How many of the films are done, told to a watch, which may wait or raise."""

    def __init__(self, watch: StageCallback, what: str, films: int) -> None:
        self._watch, self._what, self._films, self._done = watch, what, films, 0

    def advance(self, films: int) -> None:
        """So many more are done; 0: still here."""
        self._done += films
        self._watch(self._what, self._done, self._films)


def _split_batches(instances: Sequence[StoredInstance]) -> Iterator[Sequence[StoredInstance]]:
    for start in range(0, len(instances), _BATCH_IMAGES):
        yield instances[start : start + _BATCH_IMAGES]
