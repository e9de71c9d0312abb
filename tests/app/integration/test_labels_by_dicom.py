"""Reports and key objects over DICOM into the catalog: the real listener, store, worker and database."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset

from adapters.app.compose import Parts
from adapters.app.listen import build_listener
from adapters.app.policies import work_policy
from adapters.app.workers import build_worker_specs
from adapters.catalog import query, schema
from adapters.config.sections import Config
from adapters.demo.loopback import free_ports
from pipeline.domain import JobKind, JobState
from pipeline.work import work_once
from tests.builders import documents as sr
from tests.builders.dicom_files import dx
from tests.builders.reception import send
from tests.builders.report_of import report_on

STATES = "SELECT finding, state, reader, source FROM v_labels WHERE revoked = 0 ORDER BY finding"


class Installation:
    """A configuration on a folder, its catalog and its listener, and a worker that the test runs."""

    def __init__(self, folder: Path, **labels: Any) -> None:
        url = f"sqlite:///{folder / 'catalog.db'}"
        self.config = Config.model_validate(
            {
                "listener": {"host": "127.0.0.1", "port": free_ports(1)[0]},
                "storage": {"directory": folder / "images", "min_free": 0},
                "catalog": {"url": url},
                "labels": labels,
            }
        )
        schema.upgrade(url)
        self.parts = Parts(self.config)
        self.catalog = self.parts.catalog
        self.listener = build_listener(self.parts)
        self.listener.start()

    def send(self, dataset: Dataset) -> int:
        return int(send(self.listener.port, dataset).Status)

    def work(self) -> None:
        (post,) = [
            post for post in build_worker_specs(self.parts, ["label"], stop_requested=lambda: False) if post.kind is JobKind.LABEL
        ]
        while work_once(post, catalog=self.catalog, worker="w", policy=work_policy(self.config)):
            pass

    def states(self) -> list[tuple[Any, ...]]:
        return query.run(self.config.catalog.url, STATES)[1]

    def stop(self) -> None:
        self.listener.drain(1)
        self.parts.close()


@pytest.fixture
def installation(tmp_path: Path) -> Iterator[Installation]:
    made = Installation(tmp_path, key_object_titles={"113000,DCM": "Nodule"})
    yield made
    made.stop()


def test_labels_of_sr_and_kos_instances_are_imported(installation: Installation) -> None:
    film = dx()
    same = {"StudyInstanceUID": film.StudyInstanceUID}
    first = sr.report(*sr.person(), sr.group(sr.code(sr.FINDING, sr.MASS), sr.code(sr.MASS, sr.PRESENT)), **same)
    later = sr.report(*sr.person(), sr.group(sr.code(sr.FINDING, sr.MASS), sr.code(sr.MASS, sr.ABSENT)), **same, **sr.verified())
    later.PredecessorDocumentsSequence = sr.references((film.StudyInstanceUID, first.SOPInstanceUID))
    machine = sr.report(*sr.device(), sr.code(sr.FINDING, sr.EDEMA), **same)
    broken = sr.report(sr.item("CODE", sr.MASS), **same)
    for dataset in (film, first, later, machine, broken, report_on(film), sr.key_objects(("113000", "DCM", "Of Interest"), **same)):
        assert installation.send(dataset) == 0
    assert installation.states() == []
    installation.work()
    assert installation.states() == [("Mass", "absent", "Cuddy^Lisa", "sr"), ("Nodule", "present", "unnamed", "kos")]
    assert installation.send(later) == 0
    installation.work()
    assert len(installation.states()) == 2
    with installation.catalog.read() as tx:
        assert tx.jobs.count_by_state() == {(JobKind.LABEL, JobState.DONE): 5}


def test_no_label_job_is_queued_where_documents_are_not_read(tmp_path: Path) -> None:
    installation = Installation(tmp_path, accept_sr="none")
    try:
        assert installation.send(sr.report(*sr.person(), sr.code(sr.FINDING, sr.MASS))) == 0
        with installation.catalog.read() as tx:
            assert tx.jobs.count_by_state() == {}
    finally:
        installation.stop()
