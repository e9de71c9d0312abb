"""Shared parts of the encoder benchmarks: 10-megabyte films on disk, an untrained ViT-B/32, and alternated timing."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset

from adapters.dicom.image.pixels import DicomImageReader
from adapters.ml import importer
from adapters.storage.image_store import FileImageStore
from adapters.storage.model_store import ModelStore
from pipeline.domain import Header, Image, ModelVersion, StoredFile, StoredInstance
from pipeline.errors import PixelsUnreadable
from pipeline.ports.images import InputTransform, ModelInput
from pipeline.ports.services import Catalog
from tests.builders.dicom_files import EXPLICIT, dx, file_of, pixels
from tests.builders.fakes.catalog import FakeCatalog

ROWS, COLUMNS = 2560, 2048
"""Two bytes per pixel: 10 megabytes, like a digital detector."""
ARCHITECTURE = "ViT-B-32"


class Films:
    """ImageReader port of any number of films over a few different files; each film is read and decoded."""

    def __init__(self, folder: Path, *, files: int = 4, transfer_syntax_uid: str = EXPLICIT) -> None:
        store = FileImageStore(folder)
        self._reader = DicomImageReader(store)
        self._stored = [store.write(file_bytes(number, transfer_syntax_uid)) for number in range(files)]

    def film(self, number: int) -> StoredInstance:
        """Return a film of its own study, patient and key."""
        uid = f"1.2.{number}"
        header = Header(
            sop_instance_uid=f"{uid}.1",
            sop_class_uid="1.2.840.10008.5.1.4.1.1.1.1",
            series_instance_uid=f"{uid}.9",
            study_instance_uid=uid,
            transfer_syntax_uid=EXPLICIT,
        )
        return StoredInstance(header, StoredFile(str(number), f"{number:064x}", 0), datetime.now(UTC))

    def read(self, instance: StoredInstance) -> Image:
        return self._reader.read(self._on_disk(instance))

    def read_ahead(self, instances: Sequence[StoredInstance], transform: InputTransform) -> Iterator[ModelInput | PixelsUnreadable]:
        return self._reader.read_ahead([self._on_disk(instance) for instance in instances], transform)

    def _on_disk(self, instance: StoredInstance) -> StoredInstance:
        return replace(instance, file=self._stored[int(instance.file.key) % len(self._stored)])


def film(number: int) -> np.ndarray[Any, Any]:
    """Return a film [ROWS, COLUMNS]: a ramp with detector noise, 12 bits, compressible losslessly to about half."""
    noise = np.random.default_rng(number).normal(100, 12, (ROWS, COLUMNS))
    ramp = np.add.outer(np.linspace(0, 2000, ROWS), np.linspace(0, 1500, COLUMNS))
    return np.asarray((ramp + noise).clip(0, 4095), dtype=np.uint16)


def studies_film(of: np.ndarray[Any, Any], **elements: Any) -> Dataset:
    """Return a film as a DX image of a new study."""
    made = dx(rows=8, columns=8, **elements)
    pixels(made, of, bits=12)
    return made


def file_bytes(number: int, transfer_syntax_uid: str = EXPLICIT, **elements: Any) -> bytes:
    """Return a new film as a file."""
    made = studies_film(film(number), **elements)
    if transfer_syntax_uid == EXPLICIT:
        return file_of(made)
    compressed, stream = dcmread(BytesIO(file_of(made))), BytesIO()
    compressed.compress(transfer_syntax_uid, generate_instance_uid=False)
    compressed.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def untrained(folder: Path, catalog: Catalog | None = None) -> tuple[ModelStore, ModelVersion]:
    """Return a model store with an untrained ViT-B/32, and its zero-shot version, which serves in that catalog."""
    folder.mkdir()
    store = ModelStore(folder)
    base = importer.import_untrained_base(store, ARCHITECTURE, seed=0)
    return store, importer.register_zero_shot(catalog or FakeCatalog(), store, base, serve=True)


CLOCKS: Mapping[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}
"""Wall time is the waiting time of a user; on a shared machine only the CPU time of this process is comparable."""


def side_by_side(
    ways: Mapping[str, Callable[[], object]], *, rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Return the seconds of each way in each round; the ways alternate."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            begun = clock()
            way()
            seconds[name].append(clock() - begun)
    return seconds


def ratio(slow: list[float], fast: list[float]) -> dict[str, float]:
    """Return min, median and max of the ratio slow to fast, by round."""
    found = [one / other for one, other in zip(slow, fast, strict=True)]
    return {"min": round(min(found), 2), "median": round(statistics.median(found), 2), "max": round(max(found), 2)}
