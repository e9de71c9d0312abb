"""torchrun for a round of learning: starts the ranks on this host, and ends with the learn worker that wanted them.

The ranks find each other by files of the worker's private folder: torchrun opens no port, and they listen on the loopback alone.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from adapters.ipc.parent_death import die_with_parent


def main() -> None:
    """Run the ranks until all have ended, or one has failed. Arguments: process id of the worker, folder, how many ranks."""
    die_with_parent(int(sys.argv[1]))  # before what takes seconds to import
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
        max_restarts=0,  # half of a training is worth nothing: the job is tried again as a whole
        logs_specs=DefaultLogsSpecs(log_dir=str(folder)),
    )
    try:
        elastic_launch(config, sys.executable)("-P", "-m", "adapters.ml.distributed.rank", str(os.getpid()), str(folder))
    except ChildFailedError as error:
        sys.exit("; ".join(f"rank {rank} ended with status {failure.exitcode}" for rank, failure in error.failures.items()))


if __name__ == "__main__":
    main()
