"""Efficiency of scoring relative to its limit: `python -m tests.benchmarks.scoring [--films 32] [--rounds 5] [--threads 2]
[--device auto] [--json]`.

An untrained ViT-B/32, films of 10 megabytes on the disk, each a study of its own. In every round each way has its turn:

* `daemon`: files on the disk -> predictions committed in a SQLite catalog, by the score worker's own post;
* `bare`: encoder and head alone on tensors that are ready, in the precision that the daemon chose;
* `naive`: what a user would write: pydicom, PIL and open_clip, one film at a time, float32; nothing is committed.

On a GPU all three encode there. Beside milliseconds and ratios stand films a second, the share of the bare encoder that is
reached, and, of one more round, what each stage of the daemon's way costs a film (`scoring_stages`).

`--clock cpu` counts the processor's time of this process and of the decoders, for machines that others use too: what two
processors would do side by side does not show then.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the daemon's workers have it; before torch is there

# isort: split

import models.encoder  # noqa: F401 - before open_clip: see models.encoder.torchvision_ops

# isort: split

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import PIL.Image
import pydicom
import torch

from adapters.app.compose import Parts
from adapters.app.policies import work_policy
from adapters.app.workers import build_worker_specs
from adapters.catalog import schema
from adapters.catalog.catalog import SqlCatalog
from adapters.config.sections import ActivationCacheConfig, CatalogConfig, Config, ModelConfig, ScoreConfig, StorageConfig
from adapters.ml.scorer import choose_device, load_scorer
from adapters.storage.image_store import FileImageStore
from pipeline.domain import Header, JobKind, ModelVersion, Sender, StoredFile, StudyState
from pipeline.work import WorkerSpec, work_once
from tests.benchmarks.films import ARCHITECTURE, file_bytes, ratio, side_by_side, untrained
from tests.benchmarks.output import format_result, prints_result_alone
from tests.benchmarks.scoring_stages import Stages, dissected
from tests.builders.dicom_files import EXPLICIT

WINDOW: dict[str, Any] = {"WindowCenter": 1900, "WindowWidth": 3600}
"""A DX image for presentation states one (PS3.3 C.8.11.1)."""
TURN = 60.0
"""Seconds: a busy machine must not make batches smaller, which the bare encoder's are not either."""
SENDER = Sender("PACS", "127.0.0.1", "RADCLIPD")


@prints_result_alone
def main() -> str:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--films", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--naive", type=int, default=8, help="films of the naive way in a round")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--batch", type=int, default=0, help="films of a batch; 0: the daemon's own")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench.of(Path(folder), options.films, options.threads, device=options.device, batch=options.batch)
        return format_result(measure(bench, options.rounds, options.naive, options.clock), as_json=options.json)


@dataclass
class Bench:
    """An archive on the disk, a catalog, and the score worker's post."""

    config: Config
    catalog: SqlCatalog
    store: FileImageStore
    film: bytes
    version: ModelVersion
    post: WorkerSpec
    films: int
    numbers: count[int]
    files: list[StoredFile] = field(default_factory=list)

    @classmethod
    def of(cls, folder: Path, films: int, threads: int, *, device: str, batch: int) -> Bench:
        """Make films, catalog and version."""
        own = ScoreConfig(threads=threads, claim_seconds=TURN)
        config = Config(
            catalog=CatalogConfig(url=f"sqlite:///{folder / 'catalog.db'}"),
            storage=StorageConfig(directory=folder / "images"),
            model=ModelConfig(directory=folder / "models", device=device),
            activation_cache=ActivationCacheConfig(directory=folder / "activations", warm=False),
            score=own.model_copy(update={"batch_size": batch}) if batch else own,
        )
        schema.upgrade(config.catalog.url)
        parts = Parts(config)  # closed with the process
        catalog, store = parts.catalog, parts.images
        _, version = untrained(folder / "models", catalog)
        post = build_worker_specs(parts, ["score"], stop_requested=lambda: False)[0]
        return cls(config, catalog, store, file_bytes(0, **WINDOW), version, post, films, count())

    def arrive(self) -> None:
        """Queue studies of one film each. All films differ, so no activations are cached."""
        for file in self.files:
            self.store.remove(file)
        numbers = [next(self.numbers) for _ in range(self.films)]
        self.files = [self.store.write(self.film[:-8] + number.to_bytes(8, "little")) for number in numbers]
        with self.catalog.begin() as tx:
            for number, file in zip(numbers, self.files, strict=True):
                header = _header(number)
                tx.studies.add_instance(header, file, SENDER, opens_study=True)
                tx.studies.put_state(header.study_instance_uid, StudyState.SETTLED)
                tx.jobs.put(JobKind.SCORE, header.study_instance_uid)

    @property
    def device(self) -> torch.device:
        """Device of the encoder."""
        return choose_device(self.config.model.device)

    def score(self, post: WorkerSpec | None = None) -> None:
        """Process the queue like the score worker."""
        done = 0
        while claimed := work_once(post or self.post, catalog=self.catalog, worker="bench", policy=work_policy(self.config)):
            done += claimed
        assert done == self.films

    def naive(self, films: int) -> Callable[[], None]:
        """Return the naive loop over a number of films."""
        network, _, preprocess = open_clip.create_model_and_transforms(ARCHITECTURE)
        network.eval().to(self.device)
        directions = torch.randn(14, network.visual.output_dim, device=self.device)

        def score() -> None:
            for file in self.files[:films]:
                dataset = pydicom.dcmread(self.store.root / file.key)
                pixels = dataset.pixel_array.astype(np.float32)
                grey = (255 * (pixels - pixels.min()) / (pixels.max() - pixels.min())).astype(np.uint8)
                image = preprocess(PIL.Image.fromarray(grey).convert("RGB")).unsqueeze(0).to(self.device)
                with torch.no_grad():
                    features = network.encode_image(image)
                    torch.sigmoid(features / features.norm(dim=-1, keepdim=True) @ directions.T).tolist()

        return score


def _header(number: int) -> Header:
    uid = f"1.2.{number}"
    return Header(
        sop_instance_uid=f"{uid}.1",
        sop_class_uid="1.2.840.10008.5.1.4.1.1.1.1",
        series_instance_uid=f"{uid}.9",
        study_instance_uid=uid,
        transfer_syntax_uid=EXPLICIT,
        patient_id=f"P{number}",
        view_position="PA",
        body_part_examined="CHEST",
        has_pixels=True,
    )


def measure(bench: Bench, rounds: int, naive: int, clock: str) -> dict[str, Any]:
    """Return milliseconds a film and the ratios."""
    ways: dict[str, Callable[[], object]] = {"daemon": bench.score, "bare": _bare(bench), "naive": bench.naive(naive)}
    bench.arrive()
    side_by_side(ways, rounds=1)  # warms up: the model is loaded, the decoders run
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        bench.arrive()
        for name, found in side_by_side(ways, rounds=1, clock=CLOCKS[clock]).items():
            seconds[name] += found
    each = {"daemon": bench.films, "bare": bench.films, "naive": naive}
    apiece = {name: [took / each[name] for took in of] for name, of in seconds.items()}
    each_second = {name: 1 / statistics.median(of) for name, of in apiece.items()}
    return {
        "films": bench.films,
        "rounds": rounds,
        "device": torch.cuda.get_device_name(bench.device) if bench.device.type == "cuda" else "cpu",
        "batch": bench.config.score.batch_size,
        "threads": torch.get_num_threads(),
        "clock": clock,
        **{f"ms_{name}": round(1000 * statistics.median(of), 2) for name, of in apiece.items()},
        **{f"films_a_second_{name}": round(found, 1) for name, found in each_second.items()},
        "share_of_bare": round(each_second["daemon"] / each_second["bare"], 3),
        "ms_stages": _stages(bench),
        "ratios": {
            "vs_bare_encoder": ratio(apiece["bare"], apiece["daemon"]),
            "vs_naive": ratio(apiece["naive"], apiece["daemon"]),
        },
    }


def _stages(bench: Bench) -> dict[str, float]:
    """Return milliseconds a film of each stage, on the wall's clock."""
    stages = Stages()
    bench.arrive()
    bench.score(dissected(bench.post, stages))
    return {name: round(1000 * seconds / bench.films, 3) for name, seconds in stages.seconds.items()}


def _bare(bench: Bench) -> Callable[[], None]:
    settings = bench.config
    scorer = load_scorer(
        bench.version,
        settings.model.directory,
        device=settings.model.device,
        batch_size=settings.score.batch_size,
        threads=0,
        precision=settings.score.precision,
    )
    classifier = scorer._classifier
    size, device = classifier.preprocess.size, classifier.encoder.device
    tensors = torch.randn(bench.films, 3, size, size, device=device)

    def score() -> None:
        for some in torch.split(tensors, settings.score.batch_size):
            scorer._cpu_parallel.map_chunks(classifier.score_pixels, some)

    return score


def _cpu() -> float:
    """Return the seconds that processors have spent on this process and on its children that run."""
    children = [pid for thread in Path("/proc/self/task").iterdir() for pid in (thread / "children").read_text().split()]
    spent = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13] for pid in children]
    return time.process_time() + sum(int(ticks) for of in spent for ticks in of) / os.sysconf("SC_CLK_TCK")


CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": _cpu}


if __name__ == "__main__":
    main()
