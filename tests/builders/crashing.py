"""A process that dies at its N-th durability step.

Before and after each fsync, rename and commit, and each time the archive has kept something, a counter goes up; at N the process
kills itself with SIGKILL, as the OOM killer would. N = 0 never dies.
"""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy.engine.default import DefaultDialect

from adapters.catalog import schema
from adapters.catalog.catalog import SqlCatalog
from adapters.dicom.image.part10 import file_head, read_header
from adapters.storage.image_store import FileImageStore
from pipeline import receive, report, rules, score, settle, work
from pipeline.domain import Job, JobKind, Sender
from pipeline.ports.services import CircuitPolicy
from tests.builders.dicom_files import dx, encoded
from tests.builders.fakes.images import FakeImageReader
from tests.builders.fakes.models import FakeScorers
from tests.builders.fakes.reports import FakeReportWriter
from tests.builders.fakes.versions import a_version

EXPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"


class Countdown:
    """Dies at its N-th step."""

    def __init__(self, deadly: int) -> None:
        self.deadly, self.step = deadly, 0

    def tick(self) -> None:
        self.step += 1
        if self.step == self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(self, owner: Any, name: str) -> None:
        """Let each call of owner.name be two steps."""
        real: Callable[..., Any] = getattr(owner, name)

        def counted(*args: Any, **keywords: Any) -> Any:
            self.tick()
            result = real(*args, **keywords)
            self.tick()
            return result

        setattr(owner, name, counted)


class FolderArchive:
    """ports.Archive that keeps every arrival as a file of its own, so that a second arrival shows."""

    name = "FOLDER"

    def __init__(self, folder: Path, countdown: Countdown) -> None:
        self.folder, self.countdown = folder, countdown
        folder.mkdir(exist_ok=True)

    def store(self, content: bytes) -> str:
        number = len(list(self.folder.iterdir()))
        (self.folder / f"{number:03}").write_bytes(content)
        self.countdown.tick()
        return "0x0000"

    def count_instances(self, study_instance_uid: str) -> int | None:
        return None

    def echo(self) -> None:
        return None


class Line:
    """The fast line on the real catalog and the real image store."""

    def __init__(self, folder: Path, url: str, countdown: Countdown) -> None:
        self.catalog, self.images, self.countdown = SqlCatalog(url), FileImageStore(folder / "images"), countdown
        self.archive = FolderArchive(folder / "archive", countdown)
        self.chest = rules.ChestPolicy()

    def play(self, scene: str) -> str:
        """Play one of the scenes; return its outcome in one word."""
        return {"receive": self.receive, "work": self.work_off}[scene]()

    def receive(self) -> str:
        dataset = dx(SOPInstanceUID="1.2.3.4", StudyInstanceUID="1.2.3", SeriesInstanceUID="1.2.3.0")
        body = encoded(dataset, EXPLICIT_LITTLE_ENDIAN)
        header = read_header(body, EXPLICIT_LITTLE_ENDIAN)
        head = file_head(header.sop_class_uid, header.sop_instance_uid, EXPLICIT_LITTLE_ENDIAN)
        sender = Sender("TEST", "127.0.0.1", "RADCLIPD")
        policy = receive.ReceivePolicy(min_free_bytes=0)
        receiving = receive.InstanceReceiver(catalog=self.catalog, images=self.images, policy=policy)
        arriving = receiving.open_incoming()
        for piece in (head, body[:100], body[100:]):
            arriving.write(piece)
            self.countdown.tick()
        return receiving.receive(header, arriving, sender)

    def work_off(self) -> str:
        policy = settle.SettlePolicy(stable_age_seconds=0, settle_on_release=False, chest=self.chest)
        settle.settle(catalog=self.catalog, archive=None, policy=policy)
        return self.work_at(work.WorkPolicy(lease_seconds=0.3))

    def work_at(self, loop: work.WorkPolicy) -> str:
        posts = [work.WorkerSpec(kind=kind, step=step) for kind, step in self.steps().items()]
        while sum(work.work_once(post, catalog=self.catalog, worker="w", policy=loop) for post in posts):
            pass
        return "worked"

    def steps(self) -> dict[JobKind, work.BatchStep]:
        scoring = score.ScorePolicy(aggregate="max", chest=self.chest)

        def build(job: Job) -> None:
            report.report(job, catalog=self.catalog, images=self.images, writer=FakeReportWriter())

        def send(job: Job) -> None:
            report.send(job, catalog=self.catalog, images=self.images, archive=self.archive, circuit=CircuitPolicy())

        step = partial(score.score, catalog=self.catalog, pixels=FakeImageReader(), scorers=FakeScorers(), policy=scoring)
        return {JobKind.SCORE: step, JobKind.REPORT: work.per_job_step(build), JobKind.SEND: work.per_job_step(send)}


def prepare(url: str) -> None:
    """Make the schema and let a version serve."""
    schema.upgrade(url)
    catalog = SqlCatalog(url)
    with catalog.begin() as tx:
        tx.versions.add(a_version())
    catalog.dispose()


def play(scene: str, deadly: int, folder: Path, url: str, line: type[Line] = Line) -> tuple[str, int] | None:
    """Play the scene in a forked process; return its outcome and how many steps it had, or None where it died of SIGKILL.

    `line`: whose scenes they are.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        _play_and_exit(scene, deadly, folder, url, line, writer)
    os.close(writer)
    with os.fdopen(reader) as told:
        words = told.read().split()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return None
    assert status == 0, f"scene {scene} failed; its traceback is above"
    return words[0], int(words[1])


def _play_and_exit(scene: str, deadly: int, folder: Path, url: str, made: type[Line], writer: int) -> None:
    try:
        countdown = Countdown(deadly)
        line = made(folder, url, countdown)
        for owner, name in ((os, "fsync"), (os, "replace"), (os, "rename"), (DefaultDialect, "do_commit")):
            countdown.around(owner, name)
        outcome = line.play(scene)
        os.write(writer, f"{outcome} {countdown.step}".encode())
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)
