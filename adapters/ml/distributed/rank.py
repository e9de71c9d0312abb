"""A rank: one of several processes, each with a device, that make the fits of a round of learning. `gpu.ranks` speaks with it."""

from __future__ import annotations

import os
import sys
from contextlib import closing, suppress
from pathlib import Path

from adapters.ipc.channel import Channel, ChannelClosed
from adapters.ipc.parent_death import die_with_parent
from pipeline.errors import traceback_locations

SOCKET_NAME = "line"
"""The socket at which the learn worker listens, in the folder that its ranks share."""


def main() -> None:
    """Work until the line is closed. Arguments: process id of torchrun, which says in the environment who this is, and folder."""
    die_with_parent(int(sys.argv[1]))  # before what takes seconds to import
    folder, number = Path(sys.argv[2]), int(os.environ["RANK"])
    with closing(Channel.connect(folder / SOCKET_NAME)) as line:
        try:
            line.send({"rank": number, "process": os.getpid()})
            from adapters.ml.distributed.orders import run_rank_loop

            run_rank_loop(line, folder, rank=number, world_size=int(os.environ["WORLD_SIZE"]))
        except ChannelClosed:  # the worker has what it wanted, or has ended
            return
        except Exception as error:
            with suppress(ChannelClosed):
                line.send(
                    {"failed": type(error).__name__, "places": traceback_locations(error)}
                )  # a foreign message may quote anything
            sys.exit(1)


if __name__ == "__main__":
    main()
