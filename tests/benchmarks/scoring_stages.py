"""Time of the score step by stage: each waits for the device's work before its clock stops.

So nothing runs beside anything else in the worker, and the sum is more than scoring takes: a figure says what a stage costs, not
what it delays. Films land on other threads while the worker waits or encodes; that figure is of those threads.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch

from adapters.ml.gpu_input.device_builder import DeviceValues
from adapters.ml.model_input import ModelInputBuilder
from adapters.ml.scorer import ClipScorer
from pipeline import score
from pipeline.domain import ModelVersion, StoredInstance
from pipeline.ports.images import ImageReader, InputTransform, ModelInput
from pipeline.ports.services import Catalog, Scorers, Transaction
from pipeline.work import WorkerSpec


@dataclass
class Stages:
    """Seconds by stage, without those of stages inside it."""

    seconds: Counter[str] = field(default_factory=Counter)
    _own: threading.local = field(default_factory=threading.local)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def of(self, name: str, device: torch.device) -> Iterator[None]:
        """Count the time inside the block."""
        outside, self._own.inside = getattr(self._own, "inside", 0.0), 0.0
        begun = time.perf_counter()
        try:
            yield
        finally:
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            took = time.perf_counter() - begun
            with self._lock:
                self.seconds[name] += took - self._own.inside
            self._own.inside = outside + took


def dissected(post: WorkerSpec, stages: Stages) -> WorkerSpec:
    """Return the score worker's post with a clock at every stage."""
    step: Any = post.step
    parts = step.keywords
    timed = _Scorers(parts["scorers"], stages)
    return replace(
        post,
        step=partial(
            score.score,
            catalog=_Catalog(parts["catalog"], stages),
            pixels=_Reader(parts["pixels"], stages),
            scorers=timed,
            policy=parts["policy"],
        ),
    )


_HOST = torch.device("cpu")


@dataclass
class _Catalog:
    of: Catalog
    stages: Stages

    @contextmanager
    def begin(self) -> Iterator[Transaction]:
        with self.stages.of("commit", _HOST), self.of.begin() as tx:
            yield tx

    def read(self) -> AbstractContextManager[Transaction]:
        return self.of.read()


@dataclass
class _Reader:
    of: ImageReader
    stages: Stages

    def read(self, instance: StoredInstance) -> Any:
        return self.of.read(instance)

    def read_ahead(self, instances: Sequence[StoredInstance], transform: InputTransform) -> Iterator[ModelInput]:
        seen = self.of.read_ahead(instances, transform)
        for _ in instances:
            with self.stages.of("wait for decoders", _HOST):
                found = next(seen)
            yield found


@dataclass
class _Scorers:
    of: Scorers
    stages: Stages

    def load(self, version: ModelVersion) -> Any:
        scorer = self.of.load(version)
        assert isinstance(scorer, ClipScorer)
        device = scorer._classifier.encoder.device
        squares = _Squares(scorer._input_builder, self.stages, device)
        twin = ClipScorer(version, scorer._classifier, scorer._cache, batch_size=scorer._batch_size, input_builder=squares)
        return _Scorer(twin, self.stages, device)


@dataclass
class _Scorer:
    of: ClipScorer
    stages: Stages
    device: torch.device

    def __getattr__(self, name: str) -> Any:
        return getattr(self.of, name)

    def score(self, images: Sequence[ModelInput], films: Sequence[StoredInstance] = ()) -> Any:
        with self.stages.of("encode and keep", self.device):
            return self.of.score(images, films)


@dataclass
class _Squares:
    made: ModelInputBuilder
    stages: Stages
    device: torch.device

    @property
    def decoder_transform(self) -> Callable[[Any], Any]:
        return self.made.decoder_transform

    def build(self, decoded: Sequence[ModelInput]) -> torch.Tensor:
        with self.stages.of("window and resize", self.device):
            return self.made.build(decoded)

    def to_device(self, decoded: Any, /) -> ModelInput:
        with self.stages.of("copy", _HOST):  # of its own stream only: the encoder's work is not waited for
            values = self.made.to_device(decoded)
            if isinstance(values, DeviceValues) and values.copy_done is not None:
                values.copy_done.synchronize()
            return values
