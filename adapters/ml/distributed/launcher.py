"""torchrun for a training round: starts the ranks on this host and dies with the learn worker.

Rendezvous is by files in the worker's private folder: torchrun opens no port, and the ranks listen on the loopback only.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from adapters.ipc.parent_death import die_with_parent


def main() -> None:
    """Run the ranks until all have ended or one has failed. Arguments: process id of the worker, folder, number of ranks."""
    die_with_parent(int(sys.argv[1]))  # before imports that take seconds
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    folder, ranks = Path(sys.argv[2]), int(sys.argv[3])
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=ranks,
        run_id="learning",
        rdzv_backend="c10d",
        rdzv_endpoint=str(folder / "rendezvous"),
        rdzv_configs={"store_type": "file"},
        local_addr="127.0.0.1",
        max_restarts=0,  # a round cannot be resumed: the job is retried as a whole
        logs_specs=DefaultLogsSpecs(log_dir=str(folder)),
    )
    try:
        elastic_launch(config, sys.executable)("-P", "-m", "adapters.ml.distributed.rank", str(os.getpid()), str(folder))
    except ChildFailedError as error:
        sys.exit("; ".join(f"rank {rank} ended with status {failure.exitcode}" for rank, failure in error.failures.items()))


if __name__ == "__main__":
    main()
