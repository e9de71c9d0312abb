"""Background load of a radclipd under measurement: an archive of films waiting for scores, and a round of learning.

No part of the daemon is replaced. Films of 10 megabytes, each in its own file, are received by the daemon's receive step, and the
dispatcher queues their studies; labels come from `radclipd labels import`, and the daemon's learner learns from them.
"""

from __future__ import annotations

import csv
import os
import re
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np

from adapters.catalog.catalog import SqlCatalog
from adapters.dicom.image.part10 import read_header, split_file
from adapters.ipc.wakeup import WakeupSockets
from adapters.storage.image_store import FileImageStore
from pipeline import learn
from pipeline.domain import FINDINGS, Sender, StudyState
from pipeline.receive import ReceivePolicy, receive
from tests.benchmarks.films import film, studies_film
from tests.builders.dicom_files import file_of
from tests.builders.installation import Installation, wait_for

SENDER = Sender("PACS", "127.0.0.1", "RADCLIPD")
LABELLED = 100
"""Studies that a reader has labelled: with 8 copies of each, and five folds, minutes of learning."""
PATIENCE = 600.0
"""Seconds, on a busy machine."""


class Kind(StrEnum):
    """Reason for the queued studies."""

    ARRIVALS = "arrivals"  # sent at the same time, with the priority of new studies
    RESCORING = "rescoring"  # another version serves, and the activation cache is empty


class Backlog:
    """Studies of one film each in the catalog and the store of an installation whose daemon runs."""

    def __init__(self, place: Installation, studies: int) -> None:
        """Receive the films. They are not processed before `line_up`."""
        self._place = place
        self._catalog = SqlCatalog(place.url, wake=WakeupSockets(place.url).wake)
        images, policy = FileImageStore(place.folder / "images"), ReceivePolicy(min_free_bytes=0)
        self.studies = [f"1.2.3.{number}" for number in range(1, studies + 1)]
        pixels = film(0)
        for uid in self.studies:
            content = file_of(studies_film(pixels, StudyInstanceUID=uid, SOPInstanceUID=f"{uid}.1", PatientID=f"B{uid}"))
            receive(read_header(*split_file(content)), content, SENDER, catalog=self._catalog, images=images, policy=policy)

    def close(self) -> None:
        """Close the catalog."""
        self._catalog.dispose()

    def learn(self) -> None:
        """Label some of the studies, request a round of learning like the scheduler, and wait until the learner has started."""
        table = self._place.folder / "labels.csv"
        _write_labels(table, self.studies[:LABELLED])
        self._place.run("labels", "import", str(table), "--reader", "alice", timeout=PATIENCE)
        assert learn.enqueue_learning(catalog=self._catalog, min_new_labels=1)
        wait_for(self.learning, PATIENCE, self._place.read_log)

    def learning(self) -> bool:
        """Return whether a round of learning is running."""
        return bool(ask(self._place, "SELECT 1 FROM v_learning WHERE state = 'running' AND stage IS NOT NULL"))

    def learner_seconds(self) -> float:
        """Return the CPU seconds of the learner and its decoders."""
        (pid,) = re.findall(r'"child": "learner", "pid": (\d+)', self._place.read_log())
        children = [child for of in Path(f"/proc/{pid}/task").iterdir() for child in (of / "children").read_text().split()]
        spent = [Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()[11:13] for one in (pid, *children)]
        return sum(int(ticks) for of in spent for ticks in of) / os.sysconf("SC_CLK_TCK")

    def line_up(self, kind: Kind) -> None:
        """Mark the studies complete, or reported long ago, for the dispatcher; wait until all are queued."""
        with self._catalog.begin() as tx:
            if kind is Kind.ARRIVALS:
                tx.studies.mark_released(self.studies)
            for uid in self.studies if kind is Kind.RESCORING else ():
                tx.studies.put_state(uid, StudyState.REPORTED)
        wait_for(lambda: self._jobs("state <> ''") >= len(self.studies), PATIENCE, self._place.read_log)

    def left(self) -> int:
        """Return the number of studies without scores."""
        return self._jobs("state <> 'done'")

    def _jobs(self, which: str) -> int:
        of_it = f"kind = 'score' AND subject LIKE '1.2.3.%' AND {which}"
        ((jobs,),) = ask(self._place, f"SELECT count(*) FROM v_jobs WHERE {of_it}")
        return int(jobs)


def ask(place: Installation, sql: str, *values: str) -> list[tuple[Any, ...]]:
    """Query the results database, without a process per query."""
    with closing(sqlite3.connect(place.folder / "catalog.db", timeout=30)) as connection:
        return connection.execute(sql, values).fetchall()


def _write_labels(table: Path, studies: Sequence[str]) -> None:
    shown = np.random.default_rng(0).random((len(studies), len(FINDINGS))) < 0.3
    with table.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["study_instance_uid", *FINDINGS])
        for uid, row in zip(studies, shown, strict=True):
            rows.writerow([uid, *("present" if there else "absent" for there in row)])
