"""Archive scoring in blocks on a Ray cluster: each machine decodes, encodes and commits its blocks.

Ray assigns blocks to machines, and reassigns those of a lost machine. The catalog alone records finished work: blocks are scored by
the queue's own step (`pipeline.archive_scoring`). A block is two numbers: no pixels, names or secrets pass through Ray, and each
machine reads its own configuration file.
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
"""Ray sends no usage statistics."""
SINGLE_HOST_ENVIRONMENT = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""Ray's setting for a cluster on one host: its services listen on the loopback. Read at import."""
LOOPBACK = "127.0.0.1"
OBJECT_STORE_BYTES = 100 << 20
"""Bytes of shared memory of a local Ray: blocks are a few numbers."""
BLOCKS_PER_SUBMISSION = 2_000
"""Blocks submitted to Ray at a time: it holds a record of each, and workers reload the model for each submission."""
CONNECT_TIMEOUT_SECONDS = 5.0
HELD_BLOCKS_POLL_SECONDS = 5.0
"""Between two polls of blocks whose jobs are leased by a lost machine or by a worker of the queue."""

log = structlog.get_logger("radclipd.cluster")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSettings:
    """`address`: of a running cluster ("auto": the one of this host); empty: a new cluster on this host, for this run.

    `config`: configuration file, at the same path on every machine. `workers`: maximum; 0: one per GPU where `gpu` allows, else one
    per `cores` cores. `cores`: of a worker; 0: all of a machine.
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
    on_progress: StageCallback,
    sleep: Callable[[float], object] = time.sleep,
) -> int:
    """Score the studies that the serving version has not scored, and cache their activations; return the number of finished jobs.

    ConfigurationError where a machine of the cluster cannot serve, TransientError for a lost cluster, ImportError without the extra
    `scale`. A new run continues from the state in the catalog.
    """
    with _connect_cluster(settings) as ray:
        _require_shared_catalog(ray, config)
        pending, held, jobs = list(archive_scoring.cut_blocks(catalog=catalog, size=settings.block_size)), list[StudyBlock](), 0
        total, finished = len(pending), 0
        while pending:
            for block, done, leased in _score_blocks(ray, pending[:BLOCKS_PER_SUBMISSION], settings):
                jobs += done
                if leased:
                    held.append(block)
                else:
                    finished += 1
                    on_progress("blocks", finished, total)
            pending = pending[BLOCKS_PER_SUBMISSION:]
            if held and not pending:
                log.info("blocks wait for jobs leased by other workers", blocks=len(held))
                sleep(HELD_BLOCKS_POLL_SECONDS)
                pending, held = held, []
        return jobs


def _score_blocks(ray: Any, blocks: Sequence[StudyBlock], settings: ClusterSettings) -> Iterator[tuple[StudyBlock, int, int]]:
    """Submit blocks; yield each, in order of completion, with its numbers of finished jobs and of jobs leased by other workers."""
    import ray.data as ray_data

    pool, resources = _size_worker_pool(ray, settings)
    rows = [{"first": block.first, "last": block.last} for block in blocks]
    results = ray_data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        BlockScorer, fn_constructor_args=(str(settings.config),), batch_size=1, compute=pool, **resources
    )
    try:
        for row in results.iter_rows():
            if row["error"]:
                raise getattr(errors, row["error"])(row["message"], hint=row["hint"])
            yield StudyBlock(int(row["first"]), int(row["last"])), int(row["jobs"]), int(row["left"])
    except ray.exceptions.RayError as error:
        message = f"the Ray cluster failed: {type(error).__name__}"
        raise TransientError(message, hint="start it again: it continues from the state in the catalog") from error


def _size_worker_pool(ray: Any, settings: ClusterSettings) -> tuple[Any, dict[str, Any]]:
    """Return the pool, which grows and shrinks with the cluster, and the resources of each worker."""
    import ray.data as ray_data

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = int(sum(node.get("GPU", 0) for node in nodes))
    cpus = [int(node.get("CPU", 0)) for node in nodes]
    if settings.gpu and gpus:
        workers, resources = gpus, {"num_gpus": 1.0, "num_cpus": float(settings.cores or 1)}
    else:
        cores = settings.cores or min((cpu for cpu in cpus if cpu), default=1)
        workers, resources = sum(cpu // cores for cpu in cpus), {"num_cpus": float(cores)}
    if not workers:
        raise ConfigurationError(
            f"no machine of the cluster has {resources['num_cpus']:.0f} cores to give", hint="see ray status; try fewer --cores"
        )
    return ray_data.ActorPoolStrategy(min_size=1, max_size=min(workers, settings.workers or workers)), resources


@contextmanager
def _connect_cluster(settings: ClusterSettings) -> Iterator[Any]:
    """Connect to the cluster, or start one that only this host can reach, without a dashboard."""
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
            hint="see ray status --address ...; every machine needs the same Ray: radclipd[scale]",
        ) from error
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    ray.data.DataContext.get_current().enable_progress_bars = False
    try:
        yield ray
    finally:
        ray.shutdown()


def _require_reachable(address: str) -> None:
    """Fail at once where nothing listens at the address: Ray itself retries for minutes."""
    host, _, port = address.rpartition(":")
    if not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_TIMEOUT_SECONDS).close()
    except OSError as error:
        raise TransientError(
            f"the Ray cluster {address} cannot be reached", hint="does ray start --head run there, on this port?"
        ) from error


def _require_shared_catalog(ray: Any, config: Config) -> None:
    hosts = {node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
    if len(hosts) > 1 and config.catalog.url.startswith("sqlite"):
        raise ConfigurationError(
            f"the cluster has {len(hosts)} hosts, and SQLite serves one",
            hint="catalog.url of a PostgreSQL; see deploy/docs/scale.md",
        )
