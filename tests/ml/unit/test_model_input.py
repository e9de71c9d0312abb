"""Model inputs made on the device equal those of the decoders and score the same."""

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
from adapters.ipc.decoded_image import Window, WindowedPixelData
from adapters.ml import model_input
from adapters.ml.activation_cache import ActivationCache
from adapters.ml.gpu_input.device_builder import DeviceModelInputBuilder, DeviceValues, find_host_difference
from adapters.ml.model_input import HostModelInputBuilder, choose_model_input_builder
from adapters.ml.scorer import ClipScorer, load_scorer, read_version_weights
from adapters.storage.image_store import FileImageStore
from adapters.storage.model_files import base_folder
from models.classifier.classifier import Classifier
from models.encoder.base import read_base
from models.errors import ImageUnusable
from models.images import resize_on_device
from models.images.preprocess import Preprocess
from pipeline.domain import Header, StoredInstance
from pipeline.errors import PixelsUnreadable
from tests.builders import tiny
from tests.builders.dicom_files import EXPLICIT, dx, file_of, lookup_item, stream_of
from tests.builders.dicom_files import pixels as put_pixels

CPU = torch.device("cpu")
SIZE = Preprocess(size=64)


def rendering_of(dataset: Dataset) -> pixels.DicomRendering:
    return pixels.build_rendering(dcmread(stream_of(dataset)))


def noisy(rows: int, columns: int, *, bits: int = 12, low: int = 0, **elements: Any) -> Dataset:
    """An image with values below and above the window, in every row."""
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
    "a slope of zero, which is left out": noisy(20, 20, RescaleSlope="0", **WINDOW),
}
OTHERS = {
    "a sigmoid": noisy(60, 60, VOILUTFunction="SIGMOID", **WINDOW),
    "a table": noisy(20, 20, VOILUTSequence=[lookup_item(np.arange(4096), bits=12)]),
}
ONE_VALUE = noisy(1, 1)


@pytest.mark.parametrize("film", LINEAR.values(), ids=LINEAR)
@pytest.mark.parametrize("fit", ["pad", "crop"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_the_model_input_of_stored_values_equals_the_hosts(
    film: Dataset, fit: Literal["pad", "crop"], interpolation: Literal["bicubic", "bilinear"]
) -> None:
    preprocess = Preprocess(size=64, fit=fit, interpolation=interpolation)
    rendering = rendering_of(film)
    windowed = preprocess.defer_resize(rendering)
    assert isinstance(windowed, WindowedPixelData)
    assert windowed.stored is rendering.stored
    builder = DeviceModelInputBuilder(preprocess, CPU)
    inputs = builder.build([builder.to_device(windowed)])
    assert inputs.shape == (1, 1, 64, 64)
    assert inputs[0, 0].numpy() == pytest.approx(preprocess.make_model_input_array(rendering), abs=resize_on_device.TOLERANCE)
    assert float(inputs.max()) > 0.1


@pytest.mark.parametrize("film", [*OTHERS.values(), ONE_VALUE], ids=[*OTHERS, "one value"])
def test_an_image_that_takes_more_than_a_window_is_resized_by_the_host(film: Dataset) -> None:
    rendering = rendering_of(film)
    assert rendering.windowed is None
    decoded = SIZE.defer_resize(rendering)
    builder = DeviceModelInputBuilder(SIZE, CPU)
    assert isinstance(decoded, np.ndarray)
    assert np.array_equal(builder.build([builder.to_device(decoded)])[0, 0].numpy(), SIZE.make_model_input_array(rendering))


def test_an_image_of_a_detectors_size_equals_the_hosts_at_the_encoders_size() -> None:
    rendering, preprocess = rendering_of(noisy(2560, 2048, **WINDOW)), Preprocess()
    found = resize_on_device.make_model_input(torch.from_numpy(np.array(rendering.stored)), Window(800.0, 3199.0), preprocess)
    assert found[0].numpy() == pytest.approx(preprocess.make_model_input_array(rendering), abs=resize_on_device.TOLERANCE)


@pytest.mark.parametrize(("centre", "width"), [(4000, 50), (60000, 400)])
def test_narrow_windows_far_from_zero_are_not_rounded(centre: int, width: int) -> None:
    stored = (centre + np.random.default_rng(0).normal(0, width / 3, (300, 250))).clip(0, 65535).astype(np.uint16)
    black, white = centre - width / 2, centre + width / 2
    found = resize_on_device.make_model_input(torch.from_numpy(stored), Window(black, white), SIZE)
    greys = ((stored.astype(np.float64) - black) / width).clip(0, 1).astype(np.float32)
    assert found[0].numpy() == pytest.approx(SIZE.make_model_input_array(greys), abs=1e-6)


@pytest.mark.parametrize("shape", [(0, 5), (5,), (2, 2, 3)])
def test_an_array_that_is_no_image_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ImageUnusable):
        resize_on_device.make_model_input(torch.zeros(shape, dtype=torch.uint16), Window(0.0, 1.0), SIZE)


def test_device_values_are_a_copy_of_the_shared_memory() -> None:
    stored = np.full((80, 80), 100, dtype=np.uint16)
    builder = DeviceModelInputBuilder(SIZE, CPU)
    device_values = builder.to_device(WindowedPixelData(stored, Window(0.0, 200.0)))
    stored[:] = 0
    assert device_values.values.dtype == torch.uint16
    assert builder.build([device_values])[0, 0].numpy() == pytest.approx(np.full((64, 64), 0.5), abs=1e-6)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> tuple[ClipScorer, ClipScorer]:
    """Scorers of one version: with the host's model inputs, and with the device's, which is a CPU here."""
    root = tmp_path_factory.mktemp("inputs") / "models"
    version = tiny.served(root)
    base = read_base(base_folder(root, version.base), expected=version.card)
    classifier = Classifier.of(base, read_version_weights(version, root))
    device_builder = DeviceModelInputBuilder(base.preprocess, CPU)
    return (
        load_scorer(version, root, device="cpu", batch_size=4, threads=1),
        ClipScorer(version, classifier, ActivationCache(base, None), batch_size=4, input_builder=device_builder),
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


def test_images_from_the_decoders_score_the_same_with_both_builders(
    served: tuple[ClipScorer, ClipScorer], pool: DecodePool, tmp_path: Path
) -> None:
    host, device = served
    store = FileImageStore(tmp_path)
    films = [stored(store, number, film) for number, film in enumerate([*LINEAR.values(), *OTHERS.values()])]
    inputs = [each for each in pool.read_ahead(films, device.input_transform) if isinstance(each, DeviceValues)]
    assert [each.window is not None for each in inputs] == [True] * len(LINEAR) + [False] * len(OTHERS)
    assert {each.values.dtype for each in inputs} == {torch.uint8, torch.uint16, torch.int16, torch.float32}
    scores = host.score(list(pool.read_ahead(films, host.input_transform)))
    assert scores.std() > 0
    assert device.score(inputs) == pytest.approx(scores, abs=1e-5)


def test_an_unreadable_instance_yields_its_error_and_whole_images_are_scored_too(
    served: tuple[ClipScorer, ClipScorer], pool: DecodePool, tmp_path: Path
) -> None:
    host, device = served
    store, film = FileImageStore(tmp_path), noisy(80, 70, **WINDOW)
    broken, sound = stored(store, 1, film, cut=100), stored(store, 2, film)
    error, values = pool.read_ahead([broken, sound], device.input_transform)
    assert isinstance(error, PixelsUnreadable)
    assert isinstance(values, DeviceValues)
    image = pool.read(sound)
    assert device.score([image]) == pytest.approx(host.score([image]), abs=1e-5)


def test_the_decoder_transform_pickles_without_torch_or_the_builder() -> None:
    content = pickle.dumps(DeviceModelInputBuilder(SIZE, CPU).decoder_transform)
    assert b"torch" not in content
    assert b"gpu_input" not in content


def test_a_device_whose_model_inputs_differ_from_the_hosts_is_not_used_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(choose_model_input_builder(SIZE, CPU), HostModelInputBuilder)
    assert find_host_difference(DeviceModelInputBuilder(SIZE, CPU), SIZE) == ""

    class Biased(DeviceModelInputBuilder):
        def build(self, decoded: Any) -> torch.Tensor:
            return super().build(decoded) + 1e-3

    class Unable(DeviceModelInputBuilder):
        def build(self, decoded: Any) -> torch.Tensor:
            raise NotImplementedError("no kernel for it")

    assert "differ" in find_host_difference(Biased(SIZE, CPU), SIZE)
    assert find_host_difference(Unable(SIZE, CPU), SIZE) == "no kernel for it"
    monkeypatch.setattr(model_input, "DeviceModelInputBuilder", lambda preprocess, device: Biased(preprocess, CPU))
    assert isinstance(choose_model_input_builder(SIZE, torch.device("meta")), HostModelInputBuilder)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_makes_the_hosts_model_inputs_while_other_images_are_copied() -> None:
    builder = choose_model_input_builder(Preprocess(), torch.device("cuda"))
    assert isinstance(builder, DeviceModelInputBuilder)
    films = [rendering_of(noisy(2560 - 8 * number, 2048, **WINDOW)) for number in range(8)]
    for _ in range(3):
        copied = [builder.to_device(Preprocess().defer_resize(film)) for film in films]  # type: ignore[arg-type] # the film's own
        inputs = builder.build(copied).cpu()
        del copied
        for found, film in zip(inputs, films, strict=True):
            assert found[0].numpy() == pytest.approx(Preprocess().make_model_input_array(film), abs=resize_on_device.TOLERANCE)
