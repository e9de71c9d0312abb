"""Fits on several devices equal those of one, pause with the worker and leave nothing behind. Two CPU processes stand for GPUs."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from adapters.ipc.channel import Channel, ChannelClosed
from adapters.ml import trainer
from adapters.ml.distributed import ranks
from adapters.ml.distributed.ranks import RankPool, choose_devices
from adapters.ml.trainer import ClipTrainer, TrainerSettings
from models.checkpoint_files import HEAD
from models.encoder.activations import encode_activations
from models.encoder.base import Base
from models.encoder.delta import apply_delta, copy_parameters
from models.training.data_parallel import TOLERANCE
from models.training.fold_fits import LAST, FitContext, FitResult, run_fits_sequentially
from pipeline.errors import ConfigurationError, OutOfResources, StopRequested, TransientError
from pipeline.learn import LearnResult
from tests.builders import ranks as given
from tests.builders import tiny
from tests.builders.lessons import Ward

FOLDS = 3
LOOPBACK = {"0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.base(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture(scope="module")
def base(folder: Path) -> Base:
    torch.set_num_threads(1)
    return given.read(folder)


@pytest.fixture(scope="module")
def fitting(base: Base) -> FitContext:
    return given.fitting(base)


@pytest.fixture(scope="module")
def two(folder: Path, base: Base) -> Iterator[RankPool]:
    with given.two(folder, base) as running:
        yield running


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of temporary files of the ranks."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def equal(one: FitResult, other: FitResult) -> bool:
    return one.card == other.card and all(torch.equal(tensor, other.tensors[name]) for name, tensor in one.tensors.items())


def test_a_cross_validation_fit_is_bit_identical_to_that_of_one_device(two: RankPool, base: Base, fitting: FitContext) -> None:
    orders, reported = given.orders(base, FOLDS), list[int]()
    alone = list(run_fits_sequentially(fitting, orders, lambda done: None))
    dealt = list(two.run_fits(fitting, orders, reported.append))
    assert len(dealt) == FOLDS
    assert all(map(equal, alone, dealt))
    assert not equal(dealt[0], dealt[1])
    assert reported == sorted(reported)
    assert reported[-1] == sum(order.steps for order in orders)


def test_the_weights_of_labels_reach_the_ranks(folder: Path, base: Base, fitting: FitContext) -> None:
    weights = np.where(np.arange(len(given.LABELS))[:, None] % 4 == 0, 0.25, 1.0) * np.ones(given.LABELS.shape)
    weighted, orders = replace(fitting, weights=weights), given.orders(base, FOLDS)[:2]
    alone = list(run_fits_sequentially(weighted, orders, lambda done: None))
    with given.two(folder, base) as running:  # a pool has the labels of its first call
        dealt = list(running.run_fits(weighted, orders, lambda done: None))
    assert all(map(equal, alone, dealt))
    assert not equal(alone[0], next(run_fits_sequentially(fitting, orders, lambda done: None)))


def test_the_data_parallel_fit_equals_that_of_one_device_within_the_tolerance(
    two: RankPool, base: Base, fitting: FitContext
) -> None:
    """A batch of 15 images is divided into eight and seven."""
    orders = given.orders(base, 1)
    reported: list[int] = []
    (alone,) = run_fits_sequentially(fitting, orders, lambda done: None)
    (together,) = two.run_fits(fitting, orders, reported.append)
    assert set(reported) - {0} == set(range(1, given.STEPS + 1))
    start = copy_parameters(base.encoder, alone.weights[LAST].delta)
    moved = max(float((tensor - start[name]).abs().max()) for name, tensor in alone.weights[LAST].delta.items())
    assert moved > 100 * TOLERANCE  # the weights have moved far more than the tolerance
    features = [
        encode_activations(apply_delta(base.encoder, made.weights[LAST].delta), fitting.activations[:, 0], k=2).features
        for made in (alone, together)
    ]
    assert float((features[0] - features[1]).abs().max()) <= TOLERANCE
    for name, tensor in together.tensors.items():
        difference = (tensor - alone.tensors[name]).abs()
        if name.endswith("in_proj_bias"):
            difference = torch.cat([difference.chunk(3)[0], difference.chunk(3)[2]])  # without the keys, see TOLERANCE
        assert float((difference / tensor.abs().max().clamp(min=1)).max()) <= TOLERANCE, name
    assert together.card["loss"] == pytest.approx(alone.card["loss"], abs=TOLERANCE)
    assert {key: value for key, value in together.card.items() if key != "loss"} == {
        key: value for key, value in alone.card.items() if key != "loss"
    }


@pytest.mark.parametrize("folds", [FOLDS, 1])
def test_ranks_are_idle_while_the_worker_pauses(two: RankPool, base: Base, fitting: FitContext, folds: int) -> None:
    used: list[float] = []

    def pause(done: int) -> None:
        if done < 5 or used:
            return
        time.sleep(0.3)  # lets a running step end
        before = [given.processor_seconds(rank) for rank in given.of_ranks(os.getpid())]
        time.sleep(1.0)
        used.extend(
            after - earlier
            for after, earlier in zip(map(given.processor_seconds, given.of_ranks(os.getpid())), before, strict=True)
        )

    assert len(list(two.run_fits(fitting, given.orders(base, folds), pause))) == folds
    assert len(used) == 3  # torchrun and two ranks
    assert max(used) < 0.25


def test_ranks_listen_on_the_loopback_only(two: RankPool, base: Base, fitting: FitContext) -> None:
    found: list[str] = []

    def look(done: int) -> None:
        found.extend(address for rank in given.of_ranks(os.getpid()) for address in given.listening(rank))

    list(two.run_fits(fitting, given.orders(base, 1), look))
    assert found  # the ranks listen, to each other
    assert set(found) <= LOOPBACK


def test_a_killed_rank_is_named_and_ends_the_others(folder: Path, base: Base, fitting: FitContext, folders: Path) -> None:
    started, others = list[int](), given.of_ranks(os.getpid())

    def kill(done: int) -> None:
        if done and not started:
            started.extend(pid for pid in given.of_ranks(os.getpid()) if pid not in others)
            os.kill(next(pid for pid in started if "adapters.ml.distributed.rank " in given.command(pid)), signal.SIGKILL)

    with (
        pytest.raises(TransientError, match=r"learning on 2 devices: rank . \(cpu\): gone without a word") as lost,
        given.two(folder, base) as two,
    ):
        two.run_fits(fitting, given.orders(base, 1), kill)
    assert "[learn] devices = 1" in lost.value.hint
    assert len(started) == 3
    given.until(lambda: not any(map(given.runs, started)), 5)  # the death signal of the launcher reaches them a moment later
    assert list(folders.iterdir()) == []


def test_a_round_stopped_while_ranks_start_leaves_nothing_behind(
    folder: Path, base: Base, fitting: FitContext, folders: Path
) -> None:
    started, others = list[int](), given.of_ranks(os.getpid())

    def stop(done: int) -> None:
        started.extend(pid for pid in given.of_ranks(os.getpid()) if pid not in others)
        if started:  # a new process has no command line at first
            raise StopRequested("stop requested")

    with pytest.raises(StopRequested), given.two(folder, base) as two:
        two.run_fits(fitting, given.orders(base, 1), stop)
    given.until(lambda: not any(map(given.runs, started)), 5)
    assert list(folders.iterdir()) == []


def test_a_rank_that_cannot_start_reports_the_reason(folder: Path, base: Base, fitting: FitContext, folders: Path) -> None:
    """The base on disk differs from the worker's."""
    with (
        pytest.raises(TransientError, match=r"rank \d \(cpu\): WeightsCorrupt"),
        RankPool([torch.device("cpu")] * 2, folder, sha256="0" * 64, threads=1) as two,
    ):
        two.run_fits(fitting, given.orders(base, 1), lambda done: None)
    assert list(folders.iterdir()) == []


def test_the_last_message_is_received_after_the_other_end_closed_with_unread_data() -> None:
    ours, theirs = (Channel(end) for end in socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET))
    ours.send({"films": 1})
    theirs.send({"failed": "why"})
    theirs.close()
    assert ours.receive()[0] == {"failed": "why"}
    with pytest.raises(ChannelClosed), closing(ours):
        ours.receive()


WORKER = """
import sys, time
from pathlib import Path
from tests.builders import ranks as given

def hold(done):
    if done:
        print("under way", flush=True)
        time.sleep(600)

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    base = given.read(folder)
    with given.two(folder, base) as two:
        two.run_fits(given.fitting(base), given.orders(base, 2), hold)
"""


def test_ranks_end_when_the_worker_is_killed(folder: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "TMPDIR": str(tmp_path)}
    worker = subprocess.Popen([sys.executable, "-c", WORKER, str(folder)], stdout=subprocess.PIPE, env=environment)
    assert worker.stdout is not None
    with worker.stdout:
        assert worker.stdout.readline() == b"under way\n"
    started = given.of_ranks(worker.pid)
    assert len(started) == 3
    worker.kill()
    worker.wait()
    given.until(lambda: not any(map(given.runs, started)), 10)
    assert [
        path.name for left in tmp_path.iterdir() for path in left.rglob("*") if path.is_file() and path.stat().st_size > 1 << 16
    ] == []


class TwoDeviceWard(Ward):
    """A ward that trains on two devices."""

    def trainer(self) -> ClipTrainer:
        settings = TrainerSettings(plan=self.plan, min_positives=3, undetermined_margin=0.05, device="cpu", devices=2, threads=1)
        return ClipTrainer(self.store, self.films, settings)


def test_a_round_on_two_devices_has_the_measures_and_decision_of_one(tmp_path: Path, folders: Path) -> None:
    cards, files = [], []
    for kind, name in ((Ward, "one"), (TwoDeviceWard, "two")):
        (tmp_path / name).mkdir()
        ward = kind(tmp_path / name, method="partial")
        ward.plan = replace(ward.plan, recipe=replace(ward.plan.recipe, precision="float32"))  # as TOLERANCE assumes
        ward.labelled(24)
        learnt = ward.learn()
        assert (learnt.result, learnt.version is not None) == (LearnResult.PROMOTED, True)
        assert learnt.version is not None
        cards.append(learnt.version.card["learning"])
        files.append(load_file(ward.store.version_folder(2) / HEAD))
    assert [card["devices"] for card in cards] == [1, 2]
    for measured in ("measures", "log_loss", "comparisons", "folds"):
        assert cards[0][measured] == cards[1][measured], measured
    assert torch.equal(files[0]["measured.scores"].nan_to_num(), files[1]["measured.scores"].nan_to_num())
    assert cards[1]["training"]["loss"] == pytest.approx(cards[0]["training"]["loss"], abs=TOLERANCE)
    assert [path.name for path in folders.iterdir() if path.name.startswith("radclipd-")] == []


def test_one_device_starts_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("ranks on one device")

    monkeypatch.setattr(trainer, "RankPool", refuse)
    ward = Ward(tmp_path, method="partial")
    ward.labelled(12)
    assert ward.learn().version is not None
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize(
    ("device", "wanted", "gpus", "chosen"),
    [
        ("auto", "auto", 0, ["cpu"]),
        ("cpu", "auto", 4, ["cpu"]),
        ("cpu", 2, 0, ["cpu", "cpu"]),
        ("auto", "auto", 1, ["cuda"]),
        ("auto", "auto", 4, ["cuda:0", "cuda:1", "cuda:2", "cuda:3"]),
        ("cuda", 2, 4, ["cuda:0", "cuda:1"]),
        ("cuda:1", "auto", 4, ["cuda:1"]),
        ("auto", 1, 4, ["cuda"]),
    ],
)
def test_auto_devices_are_all_gpus_that_model_device_allows(
    monkeypatch: pytest.MonkeyPatch, device: str, wanted: int, gpus: int, chosen: list[str]
) -> None:
    _pretend_gpus(monkeypatch, gpus)
    assert [str(one) for one in choose_devices(device, wanted)] == chosen


@pytest.mark.parametrize(("device", "message"), [("cuda", "finds 4 of them"), ("cuda:1", "names one GPU")])
def test_more_devices_than_available_is_a_configuration_error(monkeypatch: pytest.MonkeyPatch, device: str, message: str) -> None:
    _pretend_gpus(monkeypatch, 4)
    with pytest.raises(ConfigurationError, match=message) as refused:
        choose_devices(device, 5)
    assert "[learn] devices" in refused.value.hint


def _pretend_gpus(monkeypatch: pytest.MonkeyPatch, gpus: int) -> None:
    def chosen(device: str) -> torch.device:
        return torch.device(("cuda" if gpus else "cpu") if device == "auto" else device)

    monkeypatch.setattr(ranks, "choose_device", chosen)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)


def test_a_folder_name_too_long_for_a_socket_is_an_error_with_a_hint(
    folder: Path, base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / ("long" * 30)))
    (tmp_path / ("long" * 30)).mkdir()
    with pytest.raises(OutOfResources, match="no folder for learning on 2 devices") as refused, given.two(folder, base):
        pass
    assert "TMPDIR" in refused.value.hint
    assert list((tmp_path / ("long" * 30)).iterdir()) == []
