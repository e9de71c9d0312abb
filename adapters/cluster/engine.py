"""The archive, block by block, on the machines of a Ray cluster: decoded, encoded and committed where a block lands.

Ray hands blocks out and hands them out again where a machine is lost. What was done is known by the catalog alone, through which
blocks go by the step of the queue (`pipeline.archive_scoring`). A block is two numbers: no pixels, no names, no secrets
travel through Ray, each machine reads the configuration file that it has itself.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from adapters.cluster.scorer import BlockScorer
from pipeline import archive_scoring, errors
from pipeline.archive_scoring import StudyBlock
from pipeline.errors import ConfigurationError, TransientError

if TYPE_CHECKING:
    from adapters.config.sections import Config
    from pipeline.ports.services import Catalog, StageCallback

TELEMETRY_OFF = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS": "0"}
"""Nothing is told to the makers of Ray."""
SINGLE_HOST_ENVIRONMENT = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""Ray's own switch for a cluster that needs no other host: whatever listens does so on the loopback. Read when it is imported."""
LOOPBACK = "127.0.0.1"
OBJECT_STORE_BYTES = 100 << 20
"""Bytes of shared memory of a local Ray: blocks are a few numbers."""
BLOCKS_PER_SUBMISSION = 2_000
"""Blocks handed to Ray at a time: it keeps a note of each, and workers load the model anew for each portion."""
CONNECT_TIMEOUT_SECONDS = 5.0
HELD_BLOCKS_POLL_SECONDS = 5.0
"""Between two looks at blocks that a lost machine, or a worker of the queue, has in hand."""

log = structlog.get_logger("radclipd.cluster")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSettings:
    """`address`: of a running cluster ("auto": the one of this host); empty: one of our own on this host, for this run.

    `config`: the configuration file, by the same path on every machine. `workers`: at most; 0: one for each GPU, where the encoder
    may run on one, else one for `cores` cores each. `cores`: of a worker; 0: all of a machine.
    """

    config: Path
    address: str = ""
    workers: int = 0
    cores: int = 0
    gpu: bool = False
    block_size: int = archive_scoring.BLOCK_SIZE  # studies


def score_archive(
    config: Config,
    settings: ClusterSettings,
    *,
    catalog: Catalog,
    watch: StageCallback,
    sleep: Callable[[float], object] = time.sleep,
) -> int:
    """Score whatever the serving version has not scored, and keep what enters the last blocks; return the jobs worked off.

    ConfigurationError where a machine of the cluster cannot serve, TransientError for a lost cluster, ImportError without the extra
    `scale`. A new run continues from the state in the catalog.
    """
    with _connect_cluster(settings) as ray:
        _require_shared_catalog(ray, config)
        left, again, jobs = list(archive_scoring.cut_blocks(catalog=catalog, size=settings.block_size)), list[StudyBlock](), 0
        total, over = len(left), 0
        while left:
            for block, done, held in _score_blocks(ray, left[:BLOCKS_PER_SUBMISSION], settings):
                jobs += done
                if held:
                    again.append(block)
                else:
                    over += 1
                    watch("blocks", over, total)
            left = left[BLOCKS_PER_SUBMISSION:]
            if again and not left:
                log.info("blocks wait for what others have in hand", blocks=len(again))
                sleep(HELD_BLOCKS_POLL_SECONDS)
                left, again = again, []
        return jobs


def _score_blocks(ray: Any, blocks: Sequence[StudyBlock], settings: ClusterSettings) -> Iterator[tuple[StudyBlock, int, int]]:
    """Hand blocks out; yield each with how many jobs were worked off and how many are in other hands, as they come."""
    import ray.data as ray_data

    pool, resources = _size_worker_pool(ray, settings)
    rows = [{"first": block.first, "last": block.last} for block in blocks]
    handed = ray_data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        BlockScorer, fn_constructor_args=(str(settings.config),), batch_size=1, compute=pool, **resources
    )
    try:
        for row in handed.iter_rows():
            if row["error"]:
                raise getattr(errors, row["error"])(row["message"], hint=row["hint"])
            yield StudyBlock(int(row["first"]), int(row["last"])), int(row["jobs"]), int(row["left"])
    except ray.exceptions.RayError as error:
        said = f"the cluster gave up: {type(error).__name__}"
        raise TransientError(said, hint="start it again: it goes on from what the catalog holds") from error


def _size_worker_pool(ray: Any, settings: ClusterSettings) -> tuple[Any, dict[str, Any]]:
    """Return the pool and what each of its workers takes. It may shrink and grow with the cluster."""
    import ray.data as ray_data

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = int(sum(node.get("GPU", 0) for node in nodes))
    cpus = [int(node.get("CPU", 0)) for node in nodes]
    if settings.gpu and gpus:
        most, takes = gpus, {"num_gpus": 1.0, "num_cpus": float(settings.cores or 1)}
    else:
        cores = settings.cores or min((cpu for cpu in cpus if cpu), default=1)
        most, takes = sum(cpu // cores for cpu in cpus), {"num_cpus": float(cores)}
    if not most:
        raise ConfigurationError(
            f"no machine of the cluster has {takes['num_cpus']:.0f} cores to give", hint="ray status; fewer --cores"
        )
    return ray_data.ActorPoolStrategy(min_size=1, max_size=min(most, settings.workers or most)), takes


@contextmanager
def _connect_cluster(settings: ClusterSettings) -> Iterator[Any]:
    """Connect to the cluster, or start one of our own that only this host can reach, without a dashboard."""
    _require_reachable(settings.address)
    os.environ.update(TELEMETRY_OFF if settings.address else TELEMETRY_OFF | SINGLE_HOST_ENVIRONMENT)
    import ray
    import ray.data

    quiet: dict[str, Any] = {"logging_level": "WARNING", "log_to_driver": False}
    try:
        if settings.address:
            ray.init(address=settings.address, **quiet)
        else:
            ray.init(include_dashboard=False, _node_ip_address=LOOPBACK, object_store_memory=OBJECT_STORE_BYTES, **quiet)
    except (ConnectionError, ray.exceptions.RayError, RuntimeError, ValueError) as error:
        raise TransientError(
            f"the Ray cluster {settings.address or 'of this host'} cannot be used: {type(error).__name__}",
            hint="ray status --address ... tells; the same Ray on every machine: radclipd[scale]",
        ) from error
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    ray.data.DataContext.get_current().enable_progress_bars = False
    try:
        yield ray
    finally:
        ray.shutdown()


def _require_reachable(address: str) -> None:
    """Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_TIMEOUT_SECONDS).close()
    except OSError as error:
        raise TransientError(
            f"the Ray cluster {address} cannot be reached", hint="ray start --head runs there, and on which port?"
        ) from error


def _require_shared_catalog(ray: Any, config: Config) -> None:
    hosts = {node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
    if len(hosts) > 1 and config.catalog.url.startswith("sqlite"):
        raise ConfigurationError(
            f"the cluster has {len(hosts)} hosts, and SQLite serves one",
            hint="catalog.url of a PostgreSQL; see deploy/docs/scale.md",
        )
