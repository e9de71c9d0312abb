"""A rank: one of several processes, each with a device, that make the fits of a training round. Controlled by `ranks.RankPool`."""

from __future__ import annotations

import os
import sys
from contextlib import closing, suppress
from pathlib import Path

from adapters.ipc.channel import Channel, ChannelClosed
from adapters.ipc.parent_death import die_with_parent
from pipeline.errors import traceback_locations

SOCKET_NAME = "channel"
"""Socket of the learn worker, in the folder that the ranks share."""


def main() -> None:
    """Work until the channel is closed. Arguments: process id of torchrun, folder. torchrun's environment gives the rank."""
    die_with_parent(int(sys.argv[1]))  # before imports that take seconds
    folder, number = Path(sys.argv[2]), int(os.environ["RANK"])
    with closing(Channel.connect(folder / SOCKET_NAME)) as channel:
        try:
            channel.send({"rank": number, "process": os.getpid()})
            from adapters.ml.distributed.orders import run_rank_loop

            run_rank_loop(channel, folder, rank=number, world_size=int(os.environ["WORLD_SIZE"]))
        except ChannelClosed:  # the worker has finished or died
            return
        except Exception as error:
            with suppress(ChannelClosed):
                # without the message of the error, which may quote patient data
                channel.send({"failed": type(error).__name__, "locations": traceback_locations(error)})
            sys.exit(1)


if __name__ == "__main__":
    main()
