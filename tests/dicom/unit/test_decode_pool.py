"""Decoding in other processes: the same images, and the loss of a decoder costs one instance."""

from __future__ import annotations

import os
import re
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import RLELossless

from adapters.dicom.image.decode_pool import DecodePool
from adapters.dicom.image.pixels import DicomImageReader
from adapters.ipc.decoded_image import HostTransform
from adapters.storage.image_store import FileImageStore
from models.images.preprocess import Preprocess
from pipeline.domain import Header, StoredInstance
from pipeline.errors import PixelsUnreadable
from tests.builders import decoder_transforms
from tests.builders.dicom_files import EXPLICIT, dx, file_of, pixels
from tests.builders.fakes.images import stored_instance


@pytest.fixture
def store(tmp_path: Path) -> FileImageStore:
    return FileImageStore(tmp_path)


@pytest.fixture
def pool(store: FileImageStore) -> Iterator[DecodePool]:
    made = DecodePool(store.root, processes=2, timeout_seconds=20.0)
    yield made
    made.close()


def film(store: FileImageStore, number: int, *, dark: bool = False, cut: int = 0) -> StoredInstance:
    made = dx(WindowCenter=2048, WindowWidth=4096)
    grey = np.full((60, 50), 0 if dark else 3000) + np.random.default_rng(number).integers(0, 400, (60, 50))
    pixels(made, grey, bits=12)
    content = file_of(made)
    file = store.write(content[: len(content) - cut])
    header = Header(
        sop_instance_uid=f"1.2.{number}",
        sop_class_uid=made.SOPClassUID,
        series_instance_uid="1.2",
        study_instance_uid="1.2",
        transfer_syntax_uid=EXPLICIT,
    )
    return StoredInstance(header, file, datetime.now(UTC))


def test_images_equal_those_decoded_in_this_process_and_keep_their_order(store: FileImageStore, pool: DecodePool) -> None:
    films = [film(store, number) for number in range(7)]
    here, transform = DicomImageReader(store), HostTransform(Preprocess(size=32).make_model_input_array)
    for got, own in zip(pool.read_ahead(films, transform), here.read_ahead(films, transform), strict=True):
        assert not isinstance(got, PixelsUnreadable)
        assert not isinstance(own, PixelsUnreadable)
        assert np.array_equal(got, own)
    assert np.array_equal(pool.read(films[3]), here.read(films[3]))


def test_an_unreadable_instance_gives_the_same_message_and_hint(store: FileImageStore, pool: DecodePool) -> None:
    broken = film(store, 1, cut=100)
    (error,) = pool.read_ahead([broken], HostTransform())
    with pytest.raises(PixelsUnreadable) as here:
        DicomImageReader(store).read(broken)
    assert isinstance(error, PixelsUnreadable)
    assert (str(error), error.hint) == (str(here.value), here.value.hint)


def test_an_instance_that_crashes_its_decoder_affects_no_other(store: FileImageStore, pool: DecodePool) -> None:
    films = [film(store, number, dark=number in (1, 4)) for number in range(8)]
    found = list(pool.read_ahead(films, HostTransform(decoder_transforms.crash_on_dark)))
    lost = [number for number, got in enumerate(found) if isinstance(got, PixelsUnreadable)]
    assert lost == [1, 4]
    assert "SIGSEGV" in str(found[1])
    assert "1.2.1" in str(found[1])
    assert not any(isinstance(got, PixelsUnreadable) for got in pool.read_ahead(films, HostTransform()))  # the pool has recovered


def test_an_instance_that_hangs_its_decoder_times_out(store: FileImageStore) -> None:
    pool = DecodePool(store.root, processes=1, timeout_seconds=1.0)
    try:
        found = list(pool.read_ahead([film(store, 0, dark=True), film(store, 1)], HostTransform(decoder_transforms.hang_on_dark)))
    finally:
        pool.close()
    assert isinstance(found[0], PixelsUnreadable)
    assert "no answer" in str(found[0])
    assert not isinstance(found[1], PixelsUnreadable)


def test_a_decoder_killed_between_two_instances_is_replaced(store: FileImageStore) -> None:
    pool = DecodePool(store.root, processes=1, timeout_seconds=20.0)
    try:
        pool.read(film(store, 0))
        os.kill(pool._decoders[0].process.pid, signal.SIGKILL)
        pool._decoders[0].process.wait()
        found = list(pool.read_ahead([film(store, 1), film(store, 2)], HostTransform()))
    finally:
        pool.close()
    assert not any(isinstance(got, PixelsUnreadable) for got in found)


def bomb(store: FileImageStore) -> StoredInstance:
    """A small file of runs of one byte that claims, and decodes to, an image of 60 million samples."""
    made = dx(bits=8)
    made.Rows, made.Columns = 6000, 10_000
    runs = b"\x81\x07" * (6000 * 10_000 // 128)
    made.PixelData = encapsulate([struct.pack("<16L", 1, 64, *[0] * 14) + runs])
    made["PixelData"].VR, made["PixelData"].is_undefined_length = "OB", True
    return stored_instance(store, file_of(made, RLELossless))


def test_an_instance_that_needs_more_memory_than_a_decoder_may_have_affects_no_other(store: FileImageStore) -> None:
    pool = DecodePool(store.root, processes=1, timeout_seconds=60.0, memory_bytes=280 << 20)
    try:
        pool.read(film(store, 0))
        first = pool._decoders[0].process.pid
        found = list(pool.read_ahead([bomb(store), film(store, 1)], HostTransform()))
        second = pool._decoders[0].process.pid
        limits = Path(f"/proc/{second}/limits").read_text()
    finally:
        pool.close()
    assert isinstance(found[0], PixelsUnreadable)
    assert "more memory than a decoder may have" in str(found[0])
    assert "score.decode_memory" in found[0].hint
    assert second != first  # the memory of the first may be in pieces
    assert not isinstance(found[1], PixelsUnreadable)
    assert re.search(rf"Max address space +{280 << 20} +{280 << 20} ", limits)


WORKER = """
import sys
from pathlib import Path
from adapters.dicom.image.decode_pool import DecodePool
pool = DecodePool(Path(sys.argv[1]), processes=1, timeout_seconds=20)
pool._threads.submit(pool._get_decoder).result()
print(pool._decoders[0].process.pid, flush=True)
sys.stdin.read()
"""


def test_a_killed_worker_leaves_no_decoder_and_no_shared_memory(store: FileImageStore) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WORKER, str(store.root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as worker:
        assert worker.stdout is not None
        decoder = Path("/proc") / worker.stdout.readline().strip()
        assert decoder.exists()
        worker.kill()
    end = time.monotonic() + 10
    while decoder.exists() and "Z" not in (decoder / "stat").read_text().rpartition(")")[2][:3]:
        assert time.monotonic() < end
        time.sleep(0.05)
    assert not list(Path("/dev/shm").glob("*radclipd*"))  # the place of named shared memory
