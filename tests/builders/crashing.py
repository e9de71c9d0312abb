"""A process that is killed at its N-th durability step.

Before and after each fsync, rename and commit, and after each object that the archive stores, a counter is incremented; at N the
process sends itself SIGKILL, as the OOM killer would. N = 0: never.
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
from pipeline.domain import Job, JobKind, Sender, VisibleKind
from pipeline.ports.services import CircuitPolicy
from tests.builders.dicom_files import dx, encoded
from tests.builders.fakes.images import FakeImageReader
from tests.builders.fakes.models import FakeScorers
from tests.builders.fakes.reports import FakeReportWriter
from tests.builders.fakes.versions import a_version

EXPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"


class Countdown:
    """Counts durability steps, and kills the process at step `fatal_step`."""

    def __init__(self, fatal_step: int) -> None:
        self.fatal_step, self.step = fatal_step, 0

    def tick(self) -> None:
        self.step += 1
        if self.step == self.fatal_step:
            os.kill(os.getpid(), signal.SIGKILL)

    def count_around(self, owner: Any, name: str) -> None:
        """Count a step before and after each call of owner.name."""
        original: Callable[..., Any] = getattr(owner, name)

        def counted(*args: Any, **keywords: Any) -> Any:
            self.tick()
            result = original(*args, **keywords)
            self.tick()
            return result

        setattr(owner, name, counted)


class FolderArchive:
    """ports.services.Archive that stores every arrival in a new file, so that a second arrival is visible."""

    name = "FOLDER"

    def __init__(self, folder: Path, countdown: Countdown) -> None:
        self.folder, self.countdown = folder, countdown
        folder.mkdir(exist_ok=True)

    def store(self, content: bytes) -> str:
        number = len(list(self.folder.iterdir()))
        (self.folder / f"{number:03}").write_bytes(content)
        self.countdown.tick()
        return "0x0000"

    def count_instances(self, study_instance_uid: str, *, limit_seconds: float) -> int | None:
        return None

    def echo(self) -> None:
        return None


class CrashingPipeline:
    """The fast line on the real catalog and the real image store, as scenes of one process."""

    def __init__(self, folder: Path, url: str, countdown: Countdown) -> None:
        self.catalog, self.images, self.countdown = SqlCatalog(url), FileImageStore(folder / "images"), countdown
        self.archive = FolderArchive(folder / "archive", countdown)
        self.chest = rules.ChestPolicy()

    def play(self, scene: str) -> str:
        """Play a scene; return its outcome in one word."""
        return {"receive": self.receive, "work": self.settle_and_work}[scene]()

    def receive(self) -> str:
        dataset = dx(SOPInstanceUID="1.2.3.4", StudyInstanceUID="1.2.3", SeriesInstanceUID="1.2.3.0")
        body = encoded(dataset, EXPLICIT_LITTLE_ENDIAN)
        header = read_header(body, EXPLICIT_LITTLE_ENDIAN)
        head = file_head(header.sop_class_uid, header.sop_instance_uid, EXPLICIT_LITTLE_ENDIAN)
        sender = Sender("TEST", "127.0.0.1", "RADCLIPD")
        policy = receive.ReceivePolicy(min_free_bytes=0)
        receiver = receive.InstanceReceiver(catalog=self.catalog, images=self.images, policy=policy)
        incoming = receiver.open_incoming()
        for piece in (head, body[:100], body[100:]):
            incoming.write(piece)
            self.countdown.tick()
        return receiver.receive(header, incoming, sender)

    def settle_and_work(self) -> str:
        policy = settle.SettlePolicy(stable_age_seconds=0, settle_on_release=False, chest=self.chest)
        settle.settle(catalog=self.catalog, policy=policy)
        return self.work_until_idle(work.WorkPolicy(lease_seconds=0.3))

    def work_until_idle(self, policy: work.WorkPolicy) -> str:
        specs = [work.WorkerSpec(kind=kind, step=step) for kind, step in self.steps().items()]
        while sum(work.work_once(spec, catalog=self.catalog, worker="w", policy=policy) for spec in specs):
            pass
        return "worked"

    def steps(self) -> dict[JobKind, work.BatchStep]:
        scoring = score.ScorePolicy(aggregate="max", chest=self.chest)

        writer = FakeReportWriter()
        writer.visible = [VisibleKind.TEXT]

        def build(job: Job) -> None:
            report.report(job, catalog=self.catalog, images=self.images, writer=writer, policy=report.ReportPolicy())

        def send(job: Job) -> None:
            report.send(job, catalog=self.catalog, images=self.images, archive=self.archive, circuit=CircuitPolicy())

        step = partial(score.score, catalog=self.catalog, pixels=FakeImageReader(), scorers=FakeScorers(), policy=scoring)
        return {JobKind.SCORE: step, JobKind.REPORT: work.per_job_step(build), JobKind.SEND: work.per_job_step(send)}


def prepare(url: str) -> None:
    """Create the schema and a serving version."""
    schema.upgrade(url)
    catalog = SqlCatalog(url)
    with catalog.begin() as tx:
        tx.versions.add(a_version())
    catalog.dispose()


def play(
    scene: str, fatal_step: int, folder: Path, url: str, pipeline_class: type[CrashingPipeline] = CrashingPipeline
) -> tuple[str, int] | None:
    """Play a scene in a forked process; return its outcome and the number of its steps, or None where it was killed by SIGKILL.

    `pipeline_class`: the class whose scenes are played.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        _play_and_exit(scene, fatal_step, folder, url, pipeline_class, writer)
    os.close(writer)
    with os.fdopen(reader) as outcome_pipe:
        words = outcome_pipe.read().split()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return None
    assert status == 0, f"scene {scene} failed; its traceback is above"
    return words[0], int(words[1])


def _play_and_exit(
    scene: str, fatal_step: int, folder: Path, url: str, pipeline_class: type[CrashingPipeline], writer: int
) -> None:
    try:
        countdown = Countdown(fatal_step)
        pipeline = pipeline_class(folder, url, countdown)
        for owner, name in ((os, "fsync"), (os, "replace"), (os, "rename"), (DefaultDialect, "do_commit")):
            countdown.count_around(owner, name)
        outcome = pipeline.play(scene)
        os.write(writer, f"{outcome} {countdown.step}".encode())
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)
