"""Rate of rescoring the archive: `python -m tests.benchmarks.rescore [--films 32] [--rounds 5] [--clock cpu] [--json]`.

By an untrained ViT-B/32 whose last 2 blocks moved, films of 10 megabytes, uncompressed and in lossless JPEG 2000. Three versions
score from the activation store: one whose moved blocks score every finding (`store`), one with half of the findings on the
frozen encoder (`both_ends`), and a head alone (`head_alone`). They are compared with:

* `full_encoder`: open_clip's `encode_image` as a user would call it, float32, on pixels that are decoded and preprocessed before;
* `decode_and_full_encoder`: the same from the files, by radclipd's own reader and preprocessing;
* `own_encoder`, `decode_and_own_encoder`: radclipd's scoring where nothing is kept, which takes the same short cuts.

radclipd scores as it is shipped: its batches, and in bfloat16 where the processor gains by it and the scores hold.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pydicom.uid import JPEG2000Lossless

from adapters.config.sections import ScoreConfig
from adapters.ml.activation_cache import ActivationCache, ActivationCacheSettings
from adapters.ml.scorer import ClipScorer, apply_precision
from adapters.storage.model_files import base_folder
from models.classifier.classifier import Classifier
from models.classifier.head import zero_shot_head
from models.classifier.prompts import read_prompts
from models.classifier.version_weights import FineTunedBlocks, VersionWeights
from models.encoder.base import Base, read_base
from models.encoder.delta import copy_parameters
from models.encoder.partition import parameter_names, partition
from pipeline.domain import ModelVersion, StoredInstance
from tests.benchmarks.films import CLOCKS, Films, ratio, side_by_side, untrained
from tests.benchmarks.output import format_result, prints_result_alone

K = 2
SHIPPED = ScoreConfig()
BATCH = SHIPPED.batch_size
VERSIONS: Mapping[str, float | None] = {"store": 1.0, "both_ends": 0.5, "head_alone": None}
"""The share of the findings that moved blocks score; None: no block moved."""
RATIOS = {
    "vs_full_encoder": ("full_encoder", "store"),
    "vs_decode_and_full_encoder": ("decode_and_full_encoder", "store"),
    "vs_decode_jpeg2000_and_full_encoder": ("decode_jpeg2000_and_full_encoder", "store"),
    "vs_own_encoder": ("own_encoder", "store"),
    "vs_decode_and_own_encoder": ("decode_and_own_encoder", "store"),
    "both_ends_vs_full_encoder": ("full_encoder", "both_ends"),
    "both_ends_vs_decode_and_full_encoder": ("decode_and_full_encoder", "both_ends"),
    "head_alone_vs_full_encoder": ("full_encoder", "head_alone"),
    "own_encoder_vs_full_encoder": ("full_encoder", "own_encoder"),
}


@prints_result_alone
def main() -> str:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--films", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        return format_result(measure(Path(folder), options.films, options.rounds, options.clock), as_json=options.json)


def measure(folder: Path, films: int, rounds: int, clock: str) -> dict[str, Any]:
    """Return milliseconds an image and the ratios."""
    store, version = untrained(folder / "models")
    base = read_base(base_folder(store.root, version.base), expected=version.card)
    files, compressed = Films(folder / "images"), Films(folder / "compressed", transfer_syntax_uid=JPEG2000Lossless)
    archive = Archive(base, version, [files.film(number) for number in range(films)])
    served = replace(base, encoder=archive.classifier(None).encoder)  # in the precision in which the worker keeps
    kept = ActivationCache(served, ActivationCacheSettings(directory=folder / "activations", max_bytes=1 << 30, k=K))
    archive.fill(kept, files)
    pixels = torch.cat([archive.decoded(files, some) for some in archive.batches])
    ways: dict[str, Callable[[], object]] = {
        name: partial(archive.recall, archive.scorer(share, kept)) for name, share in VERSIONS.items()
    }
    plain = archive.scorer(1.0, ActivationCache(base, None))
    ways |= {
        "full_encoder": partial(archive.encode, pixels),
        "decode_and_full_encoder": partial(archive.decode_and_encode, files),
        "decode_jpeg2000_and_full_encoder": partial(archive.decode_and_encode, compressed),
        "own_encoder": partial(archive.score_pixels, archive.classifier(1.0), pixels),
        "decode_and_own_encoder": partial(archive.score_files, plain, files),
    }
    side_by_side(ways, rounds=1)  # warms up
    seconds = side_by_side(ways, rounds=rounds, clock=CLOCKS[clock])
    kept.close()
    return {
        "films": films,
        "rounds": rounds,
        "threads": torch.get_num_threads(),
        "clock": clock,
        **{f"ms_{way}": round(1000 * statistics.median(of) / films, 2) for way, of in seconds.items()},
        "ratios": {name: ratio(seconds[slow], seconds[fast]) for name, (slow, fast) in RATIOS.items()},
    }


@dataclass(frozen=True)
class Archive:
    """Films that one base scores, in the batches of the score worker."""

    base: Base
    version: ModelVersion
    films: Sequence[StoredInstance]

    @property
    def batches(self) -> list[Sequence[StoredInstance]]:
        """The films, BATCH at a time."""
        return [self.films[start : start + BATCH] for start in range(0, len(self.films), BATCH)]

    def classifier(self, share: float | None) -> Classifier:
        """Return a version, as it serves, where blocks that moved a little score this share of the findings; None: none moved."""
        return apply_precision(Classifier.of(self.base, self._addition(share)), SHIPPED.precision)

    def _addition(self, share: float | None) -> VersionWeights:
        head = zero_shot_head(self.base.encoder, read_prompts())
        if share is None:
            return VersionWeights(head)
        delta = copy_parameters(self.base.encoder, parameter_names(partition(self.base.encoder.network).last_parts(K)))
        moved = {name: tensor + 1e-3 * torch.randn_like(tensor) for name, tensor in delta.items()}
        count = len(head.bias)
        own = torch.arange(count) < round(share * count)
        return VersionWeights(head, FineTunedBlocks(K, moved, replace(head), own))

    def scorer(self, share: float | None, kept: ActivationCache) -> ClipScorer:
        """Return the same as the score worker has it."""
        return ClipScorer(self.version, self.classifier(share), kept, batch_size=BATCH)

    def fill(self, kept: ActivationCache, files: Films) -> None:
        """Store the activations of every film."""
        scorer = self.scorer(None, kept)
        for some in self.batches:
            scorer.cache_activations([files.read(film) for film in some], some)

    def decoded(self, files: Films, some: Sequence[StoredInstance]) -> torch.Tensor:
        """Return pixels [n, 3, S, S] of some films, read and decoded."""
        return torch.stack([self.base.preprocess(files.read(film)) for film in some])

    def recall(self, scorer: ClipScorer) -> None:
        """Score from the store."""
        for some in self.batches:
            assert len(scorer.score_cached(some)) == len(some)

    def encode(self, pixels: torch.Tensor) -> None:
        """Encode ready pixels by open_clip."""
        encode_image: Any = self.base.encoder.network.encode_image
        with torch.inference_mode():
            for some in torch.split(pixels, BATCH):
                encode_image(some, normalize=True)

    def decode_and_encode(self, files: Films) -> None:
        """Encode files by open_clip."""
        for some in self.batches:
            self.encode(self.decoded(files, some))

    def score_pixels(self, classifier: Classifier, pixels: torch.Tensor) -> None:
        """Score ready pixels by radclipd."""
        for some in torch.split(pixels, BATCH):
            classifier.score_pixels(some)

    def score_files(self, scorer: ClipScorer, files: Films) -> None:
        """Score files by radclipd."""
        for some in self.batches:
            scorer.score([files.read(film) for film in some])


if __name__ == "__main__":
    main()
