"""Grey squares made where the encoder is are those that the decoders make, and score the same."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from pydicom import dcmread
from pydicom.dataset import Dataset

from adapters.dicom.image import pixels
from adapters.dicom.image.decode_pool import DecodePool
from adapters.ml import model_input as squares_module
from adapters.ml.activation_cache import ActivationCache
from adapters.ml.model_input import DeviceModelInputBuilder, DeviceValues, HostModelInputBuilder, choose_model_input_builder
from adapters.ml.scorer import ClipScorer, load_scorer, read_version_weights
from adapters.model_files import base_folder
from adapters.storage.image_store import FileImageStore
from models.classifier.classifier import Classifier
from models.encoder.base import read_base
from models.errors import ImageUnusable
from models.images import resize_on_device
from models.images.preprocess import Preprocess
from pipeline.domain import Header, StoredInstance
from pipeline.errors import PixelsUnreadable
from pipeline.ports.images import Window, WindowedPixelData
from tests.builders import tiny
from tests.builders.dicom_files import EXPLICIT, dx, file_of, stream_of
from tests.builders.dicom_files import pixels as put_pixels

CPU = torch.device("cpu")
SIZE = Preprocess(size=64)


def rendering(dataset: Dataset) -> pixels.DicomRendering:
    return pixels.build_rendering(dcmread(stream_of(dataset)))


def noisy(rows: int, columns: int, *, bits: int = 12, low: int = 0, **elements: Any) -> Dataset:
    """A film whose greys leave the window on both sides, row by row and pixel by pixel."""
    made = dx(**elements)
    grey = np.random.default_rng(rows).integers(0, 2**bits, (rows, columns)) // 2
    grey += np.linspace(0, 2**bits // 2 - 1, rows).astype(int)[:, None]
    put_pixels(made, grey, bits=bits)
    if low:
        made.PixelRepresentation = 1
        made.BitsAllocated = made.BitsStored = 16
        made.HighBit = 15
        made.PixelData = (grey + low).astype("<i2").tobytes()
    return made


WINDOW: dict[str, Any] = {"WindowCenter": 2000, "WindowWidth": 2400}
LINEAR = {
    "a window": noisy(333, 250, **WINDOW),
    "no window": noisy(100, 100),
    "MONOCHROME1": noisy(90, 121, photometric="MONOCHROME1", **WINDOW),
    "padding": noisy(150, 90, PixelPaddingValue=1000, PixelPaddingRangeLimit=1600, **WINDOW),
    "padding of an inverse film": noisy(150, 90, photometric="MONOCHROME1", PixelPaddingValue=0, PixelPaddingRangeLimit=900),
    "a rescale": noisy(77, 200, RescaleSlope="2.5", RescaleIntercept="-1000", WindowCenter=3500, WindowWidth=5000),
    "a falling rescale": noisy(77, 50, RescaleSlope="-1", RescaleIntercept="4095", **WINDOW),
    "values below zero": noisy(64, 65, low=-3000, WindowCenter=-900, WindowWidth=1500),
    "sixteen bits": noisy(201, 200, bits=16, WindowCenter=30000, WindowWidth=40000),
    "eight bits": noisy(40, 33, bits=8, WindowCenter=120, WindowWidth=200),
    "one row": noisy(1, 500, **WINDOW),
    "its size already": noisy(64, 64, **WINDOW),
}
OTHERS = {
    "a sigmoid": noisy(60, 60, VOILUTFunction="SIGMOID", **WINDOW),
    "one value": noisy(1, 1),
    "no slope": noisy(20, 20, RescaleSlope="0", **WINDOW),
}


@pytest.mark.parametrize("film", LINEAR.values(), ids=LINEAR)
@pytest.mark.parametrize("fit", ["pad", "crop"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_of_stored_values_the_same_square_is_made(
    film: Dataset, fit: Literal["pad", "crop"], interpolation: Literal["bicubic", "bilinear"]
) -> None:
    preprocess = Preprocess(size=64, fit=fit, interpolation=interpolation)
    made = rendering(film)
    windowed = preprocess.defer_resize(made)
    assert isinstance(windowed, WindowedPixelData)
    assert windowed.stored is made.stored
    found = DeviceModelInputBuilder(preprocess, CPU)
    square = found.build([found.to_device(windowed)])
    assert square.shape == (1, 1, 64, 64)
    assert square[0, 0].numpy() == pytest.approx(preprocess.make_model_input_array(made), abs=resize_on_device.TOLERANCE)
    assert float(square.max()) > 0.1


@pytest.mark.parametrize("film", OTHERS.values(), ids=OTHERS)
def test_what_is_more_than_a_window_is_made_by_the_host(film: Dataset) -> None:
    made = rendering(film)
    assert made.windowed is None
    seen = SIZE.defer_resize(made)
    found = DeviceModelInputBuilder(SIZE, CPU)
    assert not isinstance(seen, WindowedPixelData)
    assert np.array_equal(found.build([found.to_device(seen)])[0, 0].numpy(), SIZE.make_model_input_array(made))  # type: ignore[arg-type] # an array


def test_a_detectors_film_at_the_encoders_size() -> None:
    made, preprocess = rendering(noisy(2560, 2048, **WINDOW)), Preprocess()
    square = resize_on_device.make_model_input(torch.from_numpy(np.array(made.stored)), Window(800.0, 3199.0), preprocess)
    assert square[0].numpy() == pytest.approx(preprocess.make_model_input_array(made), abs=resize_on_device.TOLERANCE)


@pytest.mark.parametrize(("centre", "width"), [(4000, 50), (60000, 400)])
def test_narrow_windows_far_from_zero_are_not_rounded(centre: int, width: int) -> None:
    stored = (centre + np.random.default_rng(0).normal(0, width / 3, (300, 250))).clip(0, 65535).astype(np.uint16)
    black, white = centre - width / 2, centre + width / 2
    square = resize_on_device.make_model_input(torch.from_numpy(stored), Window(black, white), SIZE)
    greys = ((stored.astype(np.float64) - black) / width).clip(0, 1).astype(np.float32)
    assert square[0].numpy() == pytest.approx(SIZE.make_model_input_array(greys), abs=1e-6)


@pytest.mark.parametrize("shape", [(0, 5), (5,), (2, 2, 3)])
def test_what_is_no_image_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ImageUnusable):
        resize_on_device.make_model_input(torch.zeros(shape, dtype=torch.uint16), Window(0.0, 1.0), SIZE)


def test_what_landed_is_not_the_memory_that_it_came_by() -> None:
    stored = np.full((80, 80), 100, dtype=np.uint16)
    found = DeviceModelInputBuilder(SIZE, CPU)
    landed = found.to_device(WindowedPixelData(stored, Window(0.0, 200.0)))
    stored[:] = 0
    assert landed.values.dtype == torch.uint16
    assert found.build([landed])[0, 0].numpy() == pytest.approx(np.full((64, 64), 0.5), abs=1e-6)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> tuple[ClipScorer, ClipScorer]:
    """One version, once with the host's squares and once with the device's, which is a CPU."""
    root = tmp_path_factory.mktemp("squares") / "models"
    version = tiny.served(root)
    base = read_base(base_folder(root, version.base), expected=version.card)
    classifier = Classifier.of(base, read_version_weights(version, root))
    by_device = DeviceModelInputBuilder(base.preprocess, CPU)
    return (
        load_scorer(version, root, device="cpu", batch_size=4, threads=1),
        ClipScorer(version, classifier, ActivationCache(base, None), batch_size=4, input_builder=by_device),
    )


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[DecodePool]:
    made = DecodePool(tmp_path, processes=2, timeout_seconds=60.0)
    yield made
    made.close()


def stored(store: FileImageStore, number: int, film: Dataset, *, cut: int = 0) -> StoredInstance:
    content = file_of(film)
    header = Header(
        sop_instance_uid=f"1.2.{number}",
        sop_class_uid=film.SOPClassUID,
        series_instance_uid="1.2",
        study_instance_uid="1.2",
        transfer_syntax_uid=EXPLICIT,
    )
    return StoredInstance(header, store.write(content[: len(content) - cut]), datetime.now(UTC))


def test_films_from_the_decoders_score_the_same_either_way(
    served: tuple[ClipScorer, ClipScorer], pool: DecodePool, tmp_path: Path
) -> None:
    host, device = served
    store = FileImageStore(tmp_path)
    films = [stored(store, number, film) for number, film in enumerate([*LINEAR.values(), *OTHERS.values()])]
    landed = [each for each in pool.read_ahead(films, device.decoder_transform, device.to_device) if isinstance(each, DeviceValues)]
    assert [each.window is not None for each in landed] == [True] * len(LINEAR) + [False] * len(OTHERS)
    assert {each.values.dtype for each in landed} == {torch.uint8, torch.uint16, torch.int16, torch.float32}
    scores = host.score(list(pool.read_ahead(films, host.decoder_transform, host.to_device)))
    assert scores.std() > 0
    assert device.score(landed) == pytest.approx(scores, abs=1e-5)


def test_a_film_that_cannot_be_read_says_so_and_whole_images_are_scored_too(
    served: tuple[ClipScorer, ClipScorer], pool: DecodePool, tmp_path: Path
) -> None:
    host, device = served
    store, film = FileImageStore(tmp_path), noisy(80, 70, **WINDOW)
    broken, sound = stored(store, 1, film, cut=100), stored(store, 2, film)
    told, landed = pool.read_ahead([broken, sound], device.decoder_transform, device.to_device)
    assert isinstance(told, PixelsUnreadable)
    assert isinstance(landed, DeviceValues)
    image = pool.read(sound)
    assert device.score([image]) == pytest.approx(host.score([image]), abs=1e-5)


def test_processes_that_decode_need_no_torch_for_it() -> None:
    sight = DeviceModelInputBuilder(SIZE, CPU).decoder_transform
    assert b"torch" not in pickle.dumps(sight)
    assert b"squares" not in pickle.dumps(sight)


def test_a_device_that_makes_other_squares_makes_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(choose_model_input_builder(SIZE, CPU), HostModelInputBuilder)
    assert squares_module._describe_host_difference(DeviceModelInputBuilder(SIZE, CPU), SIZE) == ""

    class Biased(DeviceModelInputBuilder):
        def of(self, seen: Any) -> torch.Tensor:
            return super().build(seen) + 1e-3

    class Unable(DeviceModelInputBuilder):
        def of(self, seen: Any) -> torch.Tensor:
            raise NotImplementedError("no kernel for it")

    assert "differ" in squares_module._describe_host_difference(Biased(SIZE, CPU), SIZE)
    assert squares_module._describe_host_difference(Unable(SIZE, CPU), SIZE) == "no kernel for it"
    monkeypatch.setattr(squares_module, "DeviceModelInputBuilder", lambda preprocess, device: Biased(preprocess, CPU))
    assert isinstance(choose_model_input_builder(SIZE, torch.device("meta")), HostModelInputBuilder)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_card_makes_the_same_squares_while_others_land() -> None:
    found = choose_model_input_builder(Preprocess(), torch.device("cuda"))
    assert isinstance(found, DeviceModelInputBuilder)
    films = [rendering(noisy(2560 - 8 * number, 2048, **WINDOW)) for number in range(8)]
    for _ in range(3):
        landed = [found.to_device(Preprocess().defer_resize(film)) for film in films]  # type: ignore[arg-type] # the film's own
        made = found.build(landed).cpu()
        del landed
        for square, film in zip(made, films, strict=True):
            assert square[0].numpy() == pytest.approx(Preprocess().make_model_input_array(film), abs=resize_on_device.TOLERANCE)
