"""Films for the browser: decoded and windowed as the browser does, they equal the encoder's image to one grey level."""

from __future__ import annotations

import gzip
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from adapters.dicom.image import part10
from adapters.dicom.image.pixels import DicomImageReader, render
from adapters.storage.image_store import FileImageStore
from adapters.web.film_bytes import FilmBytes, FilmCache
from pipeline.domain import StoredInstance
from pipeline.errors import PixelsUnreadable
from tests.builders.catalog_rows import NOON
from tests.builders.desk_films import DESK_FILMS
from tests.builders.dicom_files import dx, file_of


def stored(store: FileImageStore, dataset: Dataset) -> StoredInstance:
    content = file_of(dataset)
    return StoredInstance(part10.read_header(*part10.split_file(content)), store.write(content), NOON)


def shown(film: FilmBytes) -> npt.NDArray[np.uint8]:
    """The greys that static/film.js and static/viewer.js make of a film."""
    facts: dict[str, Any] = json.loads(film.description)
    shape = facts["rows"], facts["columns"]
    planes = np.frombuffer(gzip.decompress(film.content), np.uint8).reshape(2, *shape).astype(np.uint16)
    values = np.cumsum(planes[0] + (planes[1] << 8), axis=1, dtype=np.uint16)
    assert (int(values.min()), int(values.max())) == (facts["low"], facts["high"])
    share = np.clip((values - facts["black"]) / (facts["white"] - facts["black"]), 0, 1)
    if facts["padding"]:
        share[(values >= facts["padding"][0]) & (values <= facts["padding"][1])] = 0
    greys: npt.NDArray[np.uint8] = np.rint(255 * share).astype(np.uint8)
    return greys


@pytest.mark.parametrize("name", DESK_FILMS)
def test_a_film_has_the_greys_of_the_encoder(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    dataset = DESK_FILMS[name]()
    store = FileImageStore(tmp_path_factory.mktemp("images"))
    instance = stored(store, dataset)
    film = FilmCache(DicomImageReader(store), max_bytes=1 << 20).read(instance)
    wanted = np.rint(255 * DicomImageReader(store).read(instance))
    assert np.abs(shown(film).astype(int) - wanted).max() <= 1
    assert len(np.unique(wanted)) > 20


def test_the_cache_keeps_the_films_that_were_asked_for_last(tmp_path_factory: pytest.TempPathFactory) -> None:
    store = FileImageStore(tmp_path_factory.mktemp("images"))
    reader = CountingReader(store)
    instances = [stored(store, dx(bits=12, rows=60 + n)) for n in range(3)]
    size = len(FilmCache(reader, max_bytes=1).read(instances[0]).content)
    cache = FilmCache(reader, max_bytes=int(2.5 * size))
    reader.decoded.clear()
    for number in (0, 1, 0, 2, 0, 1):
        cache.read(instances[number])
    assert reader.decoded == [instances[n].file.sha256 for n in (0, 1, 2, 1)]


def test_a_film_that_several_ask_for_at_a_time_is_decoded_once(tmp_path_factory: pytest.TempPathFactory) -> None:
    store = FileImageStore(tmp_path_factory.mktemp("images"))
    reader = CountingReader(store)
    cache = FilmCache(reader, max_bytes=1 << 20)
    instance = stored(store, dx())
    with ThreadPoolExecutor(8) as threads:
        films = list(threads.map(cache.read, [instance] * 8))
    assert len(set(films)) == 1
    cache.prepare([instance])
    assert len(reader.decoded) == 1


def test_an_unreadable_film_says_why(tmp_path_factory: pytest.TempPathFactory) -> None:
    store = FileImageStore(tmp_path_factory.mktemp("images"))
    dataset = dx()
    dataset.PixelData = dataset.PixelData[:100]
    with pytest.raises(PixelsUnreadable, match="truncated"):
        FilmCache(DicomImageReader(store), max_bytes=1 << 20).read(stored(store, dataset))


class CountingReader(DicomImageReader):
    def __init__(self, store: FileImageStore) -> None:
        super().__init__(store)
        self.decoded: list[str] = []

    def read_ahead(self, instances: Any, transform: Any) -> Any:
        self.decoded += [instance.file.sha256 for instance in instances]
        return super().read_ahead(instances, transform)


def test_the_builders_films_differ() -> None:
    """MONOCHROME1 is the inverse of MONOCHROME2, and no two films of DESK_FILMS are the same picture by accident."""
    images = {}
    for name, build in DESK_FILMS.items():
        dataset = build()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        images[name] = render(dataset)
    assert np.allclose(images["MONOCHROME1"], 1 - images["window"], atol=1e-5)
    assert len({image.tobytes() for image in images.values()}) == len(images)
