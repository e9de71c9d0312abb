"""Archive scoring on several Ray nodes of this host: the results of the queue, also after losses."""

from __future__ import annotations

import importlib.util
import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adapters.app.compose import Parts
from adapters.app.policies import chest_policy, receive_policy, work_policy
from adapters.app.workers import build_score_spec_and_cache_warming
from adapters.catalog import schema
from adapters.catalog.catalog import SqlCatalog
from adapters.cluster import engine
from adapters.cluster.engine import ClusterSettings, score_archive
from adapters.config import sections as configuration
from adapters.config.sections import CatalogConfig, Config
from adapters.dicom.image import part10
from adapters.ml import importer
from adapters.storage.model_store import ModelStore
from pipeline import settle, work
from pipeline.domain import FINDINGS, Sender, VersionState
from pipeline.errors import ConfigurationError, NoWeights, TransientError
from pipeline.receive import receive
from tests.builders import peers, tiny
from tests.builders.dicom_files import dx, file_of
from tests.builders.fakes.versions import a_version
from tests.builders.installation import Installation, kill, wait_for
from tests.builders.postgres import Cluster

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context")  # Ray itself uses what it deprecates
os.environ.update(engine.TELEMETRY_OFF | engine.SINGLE_HOST_ENVIRONMENT)  # before any test imports Ray
STUDIES = 60
NODE: dict[str, Any] = {"num_cpus": 1, "object_store_memory": engine.OBJECT_STORE_BYTES, "node_ip_address": engine.LOOPBACK}


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    """A head and two more nodes, one core each, on the loopback."""
    if importlib.util.find_spec("ray") is None:
        peers.absent("Ray is not installed (pip install radclipd[scale])")
    import ray
    from ray.cluster_utils import Cluster as RayCluster

    running: Any = RayCluster(initialize_head=True, head_node_args=NODE | {"num_cpus": 0, "include_dashboard": False})
    for _ in range(2):
        running.add_node(**NODE)
    yield running
    ray.shutdown()  # a connected driver cannot shut the cluster down
    running.shutdown()


@pytest.fixture(scope="module")
def films() -> list[bytes]:
    """One instance per study; the last is unreadable."""
    made = [file_of(dx(rows=24 + number % 7, columns=20)) for number in range(STUDIES - 1)]
    broken = dx()
    broken.PixelData = b"\0\0"
    return [*made, file_of(broken)]


class Hospital:
    """An installation whose studies are settled and wait for scores."""

    def __init__(self, folder: Path, url: str, films: list[bytes]) -> None:
        folder.mkdir()
        self.place = Installation(folder, url, activation_cache={"max_size": "16MiB"})
        schema.upgrade(self.place.url)
        self.config: Config = configuration.load(self.place.config)
        self.parts = Parts(self.config)
        self.catalog: SqlCatalog = self.parts.catalog
        self._serve(folder / "models")
        images, policy = self.parts.images, receive_policy(self.config)
        for film in films:
            header = part10.read_header(*part10.split_file(film))
            receive(header, film, Sender("A", "", ""), catalog=self.catalog, images=images, policy=policy)
        quiet = settle.SettlePolicy(stable_age_seconds=0, settle_on_release=False, chest=chest_policy(self.config))
        settle.settle(catalog=self.catalog, policy=quiet)

    def _serve(self, models: Path) -> None:
        models.mkdir()
        store = ModelStore(models)
        base = importer.import_untrained_base(store, str(tiny.config_file(models)), seed=1)
        importer.register_zero_shot(self.catalog, store, base, serve=True)

    def settings(self, **changes: Any) -> ClusterSettings:
        return ClusterSettings(**{"config": self.place.config, "block_size": 4, **changes})

    def predictions(self) -> dict[str, tuple[list[float], list[str]]]:
        """StudyInstanceUID -> scores and decisions."""
        with self.catalog.read() as tx:
            studies = tx.studies.uids_by_number(range(1, tx.studies.highest_study_number() + 1))
            found = {uid: tx.scores.predictions(uid, 1) for uid in studies}
        return {uid: ([p.score for p in said], [p.decision.value for p in said]) for uid, said in found.items() if said}

    def scored(self) -> int:
        return int(self.place.rows("SELECT count(DISTINCT study_instance_uid) AS n FROM v_predictions")[0]["n"])

    def inconsistencies(self) -> list[dict[str, Any]]:
        """Return studies that were committed more than once, and open jobs."""
        revised = self.place.rows("SELECT study_instance_uid FROM v_studies WHERE revision > 1")
        return revised + self.place.rows("SELECT id, state FROM v_jobs WHERE kind = 'score' AND state IN ('waiting', 'running')")


@pytest.fixture(scope="module")
def by_queue(tmp_path_factory: pytest.TempPathFactory, films: list[bytes]) -> dict[str, tuple[list[float], list[str]]]:
    """Predictions of a single worker of the queue."""
    alone = Hospital(tmp_path_factory.mktemp("alone") / "queue", "", films)
    post, _ = build_score_spec_and_cache_warming(alone.parts)
    while work.work_once(post, catalog=alone.catalog, worker="w", policy=work_policy(alone.config)):
        pass
    found = alone.predictions()
    alone.parts.close()
    assert len(found) == STUDIES - 1
    return found


@pytest.fixture
def hospital(tmp_path: Path, cluster: Cluster, films: list[bytes]) -> Iterator[Hospital]:
    """A hospital on PostgreSQL, as for several hosts."""
    made = Hospital(tmp_path / "cluster", cluster.upgraded(), films)
    yield made
    made.parts.close()


def same(found: dict[str, tuple[list[float], list[str]]], wanted: dict[str, tuple[list[float], list[str]]]) -> None:
    assert found.keys() == wanted.keys()
    for uid, (probabilities, decisions) in wanted.items():
        np.testing.assert_allclose(found[uid][0], probabilities, atol=1e-5)
        assert (len(found[uid][0]), found[uid][1]) == (len(FINDINGS), decisions)


@pytest.mark.postgres
def test_after_a_lost_node_the_results_equal_those_of_the_queue(nodes: Any, hospital: Hospital, by_queue: Any) -> None:
    """The unreadable instance is quarantined, as by the queue."""
    lost: list[Any] = []

    def watch(_what: str, done: int, _total: int) -> None:
        if done >= 2 and not lost:
            lost.append(sorted(nodes.worker_nodes, key=lambda node: node.node_id)[0])
            nodes.remove_node(lost[0], allow_graceful=False)

    jobs = score_archive(hospital.config, hospital.settings(address=nodes.address), catalog=hospital.catalog, on_progress=watch)
    assert lost
    assert 0 < jobs <= STUDIES
    same(hospital.predictions(), by_queue)
    assert hospital.inconsistencies() == []
    quarantined = hospital.place.rows("SELECT kind FROM v_jobs WHERE state = 'quarantined'")
    assert quarantined == [{"kind": "score"}]
    assert (
        score_archive(
            hospital.config, hospital.settings(address=nodes.address), catalog=hospital.catalog, on_progress=lambda *_: None
        )
        == 0
    )


def test_an_unreachable_cluster_is_reported_at_once() -> None:
    with (
        pytest.raises(TransientError, match="cannot be reached"),
        engine._connect_cluster(ClusterSettings(config=Path("/c"), address="127.0.0.1:9")),
    ):
        pass


@dataclass
class Machines:
    """Fake of Ray's view of a cluster."""

    resources: list[dict[str, float]]
    hosts: list[str] = field(default_factory=lambda: ["10.0.0.1"])

    def nodes(self) -> list[dict[str, Any]]:
        hosts = itertools.cycle(self.hosts)
        return [{"Alive": True, "Resources": resources, "NodeManagerAddress": next(hosts)} for resources in self.resources]


@pytest.mark.parametrize(
    ("settings", "most", "takes"),
    [
        ({}, 3, {"num_cpus": 8.0}),  # one on 8 cores, two on 16
        ({"cores": 4}, 6, {"num_cpus": 4.0}),
        ({"cores": 4, "workers": 2}, 2, {"num_cpus": 4.0}),
        ({"gpu": True}, 4, {"num_gpus": 1.0, "num_cpus": 1.0}),
    ],
)
def test_the_pool_has_a_worker_per_gpu_or_per_number_of_cores(settings: dict[str, Any], most: int, takes: dict[str, float]) -> None:
    machines = Machines([{"CPU": 8, "GPU": 4}, {"CPU": 16}, {}])
    pool, found = engine._size_worker_pool(machines, ClusterSettings(config=Path("/c"), **settings))
    assert (pool.min_size, pool.max_size, found) == (1, most, takes)


@pytest.mark.parametrize("resources", [[{}], [{"CPU": 2}]])
def test_a_cluster_with_too_few_cores_is_a_configuration_error(resources: list[dict[str, float]]) -> None:
    with pytest.raises(ConfigurationError, match="cores"):
        engine._size_worker_pool(Machines(resources), ClusterSettings(config=Path("/c"), cores=4))


def test_sqlite_with_two_hosts_is_a_configuration_error() -> None:
    two = Machines([{"CPU": 1}, {"CPU": 1}], hosts=["10.0.0.1", "10.0.0.2"])
    with pytest.raises(ConfigurationError, match="SQLite"):
        engine._require_shared_catalog(two, Config(catalog=CatalogConfig(url="sqlite:////c.db")))
    engine._require_shared_catalog(two, Config(catalog=CatalogConfig(url="postgresql://h/c")))
    engine._require_shared_catalog(Machines([{}, {}]), Config(catalog=CatalogConfig(url="sqlite:////c.db")))


@pytest.mark.postgres
@pytest.mark.slow
def test_an_error_on_a_node_reaches_the_driver_with_its_hint(nodes: Any, hospital: Hospital) -> None:
    with hospital.catalog.begin() as tx:
        tx.versions.add(a_version(2, VersionState.CANDIDATE))
        tx.versions.serve(2)  # a version without files
        tx.versions.put_state(1, VersionState.REJECTED, reason="a test")
    with pytest.raises(NoWeights) as raised:
        score_archive(
            hospital.config, hospital.settings(address=nodes.address), catalog=hospital.catalog, on_progress=lambda *_: None
        )
    assert raised.value.hint


@pytest.mark.postgres
@pytest.mark.slow
def test_after_a_killed_driver_the_next_one_continues(nodes: Any, hospital: Hospital, by_queue: Any) -> None:
    driver = hospital.place.start("backfill", "score", "--engine", "ray", "--address", nodes.address)
    wait_for(lambda: 0 < hospital.scored() < STUDIES - 1, 120, hospital.place.read_log)
    kill(driver.pid)
    driver.wait(20)
    output = hospital.place.run("backfill", "score", "--engine", "ray", "--address", nodes.address).stdout
    assert "studies scored" in output
    same(hospital.predictions(), by_queue)
    assert hospital.inconsistencies() == []


@pytest.mark.postgres
@pytest.mark.slow
def test_two_workers_of_the_queue_share_the_archive(hospital: Hospital, by_queue: Any) -> None:
    """The other engine: one queue worker per machine on one PostgreSQL."""
    workers = [hospital.place.start("work", "score") for _ in range(2)]
    wait_for(lambda: hospital.scored() == STUDIES - 1, 120, hospital.place.read_log)
    for worker in workers:
        worker.terminate()
        assert worker.wait(30) == 0
    same(hospital.predictions(), by_queue)
    assert hospital.inconsistencies() == []
