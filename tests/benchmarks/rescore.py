"""How fast the archive is scored again: `python -m tests.benchmarks.rescore [--films 32] [--rounds 5] [--clock cpu] [--json]`.

By an untrained ViT-B/32 whose last 2 blocks moved, films of 10 megabytes: from the prefix store, through the full encoder alone
(pixels decoded and preprocessed before), and from the files, uncompressed and as lossless JPEG 2000. Once where the moved blocks
score every finding, and once where half of the findings keep the frozen encoder, so that a film passes both ends.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pydicom.uid import JPEG2000Lossless

from adapters.gpu.kept import Kept, KeptSettings
from adapters.gpu.scorer import ClipScorer
from adapters.model_files import base_folder
from models.addition import Addition, Moved
from models.base import Base, read_base
from models.classifier import Classifier
from models.delta import values
from models.head import zero_shot_head
from models.partition import names_of, partition
from models.prompts import read_prompts
from pipeline.domain import ModelVersion
from tests.benchmarks.films import CLOCKS, Films, ratio, side_by_side, tell, untrained

K = 2
BATCH = 8
"""`[score] batch_size` as shipped."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--films", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        tell(measure(Path(folder), options.films, options.rounds, options.clock), as_json=options.json)


def measure(folder: Path, films: int, rounds: int, clock: str) -> dict[str, Any]:
    """Return milliseconds an image and the ratios."""
    store, version = untrained(folder / "models")
    base = read_base(base_folder(store.root, version.base), expected=version.card)
    reader = Films(folder / "images")
    compressed = Films(folder / "compressed", transfer_syntax_uid=JPEG2000Lossless)
    ratios: dict[str, dict[str, float]] = {}
    measured: dict[str, Any] = {"films": films, "rounds": rounds, "threads": torch.get_num_threads(), "clock": clock}
    for name, share in (("moved", 1.0), ("both_ends", 0.5)):
        seconds = _measured(folder / name, base, version, (reader, compressed), films, rounds, share=share, clock=CLOCKS[clock])
        measured |= {f"ms_{way}_{name}": round(1000 * statistics.median(of) / films, 2) for way, of in seconds.items()}
        ratios[f"encoder_to_store_{name}"] = ratio(seconds["encoder"], seconds["store"])
        ratios[f"files_to_store_{name}"] = ratio(seconds["files"], seconds["store"])
        ratios[f"jpeg2000_to_store_{name}"] = ratio(seconds["jpeg2000"], seconds["store"])
    return measured | {"ratios": ratios}


def _measured(
    folder: Path,
    base: Base,
    version: ModelVersion,
    readers: tuple[Films, Films],
    count: int,
    rounds: int,
    *,
    share: float,
    clock: Callable[[], float],
) -> dict[str, list[float]]:
    reader, compressed = readers
    classifier = Classifier.of(base, _addition(base, share=share))
    kept = Kept(base, KeptSettings(directory=folder, limit=1 << 30, k=K))
    scorer = ClipScorer(version, classifier, kept, batch_size=BATCH)
    plain = ClipScorer(version, classifier, Kept(base, None), batch_size=BATCH)
    films = [reader.film(number) for number in range(count)]
    images = [reader.read(film) for film in films]
    scorer.score(images, films)
    pixels = torch.stack([base.preprocess(image) for image in images])
    del images

    def from_store() -> None:
        for start in range(0, count, BATCH):
            some = films[start : start + BATCH]
            assert len(scorer.recall(some)) == len(some)

    def encoder_alone() -> None:
        for some in torch.split(pixels, BATCH):
            classifier.score_pixels(some)

    def from_files(of: Films) -> None:
        for start in range(0, count, BATCH):
            plain.score([of.read(film) for film in films[start : start + BATCH]])

    ways: dict[str, Callable[[], object]] = {
        "store": from_store,
        "encoder": encoder_alone,
        "files": partial(from_files, reader),
        "jpeg2000": partial(from_files, compressed),
    }
    side_by_side(ways, rounds=1)  # warms up
    seconds = side_by_side(ways, rounds=rounds, clock=clock)
    scorer.close()
    return seconds


def _addition(base: Base, *, share: float) -> Addition:
    """Blocks that moved a little, and how many of the findings they score."""
    head = zero_shot_head(base.encoder, read_prompts())
    delta = values(base.encoder, names_of(partition(base.encoder.network).last(K)))
    moved = {name: tensor + 1e-3 * torch.randn_like(tensor) for name, tensor in delta.items()}
    count = len(head.bias)
    own = torch.arange(count) < round(share * count)
    return Addition(head, Moved(K, moved, replace(head), own))


if __name__ == "__main__":
    main()
