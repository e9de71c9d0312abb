"""A rank: one of several processes, each with a device, that make the fits of a round of learning. `gpu.ranks` speaks with it."""

from __future__ import annotations

import os
import sys
from contextlib import closing, suppress
from pathlib import Path

from adapters.ipc.channel import Gone, Line
from adapters.ipc.parent_death import end_with
from pipeline.errors import places

LINE = "line"
"""The socket at which the learn worker listens, in the folder that its ranks share."""


def main() -> None:
    """Work until the line is closed. Arguments: process id of torchrun, which says in the environment who this is, and folder."""
    end_with(int(sys.argv[1]))  # before what takes seconds to import
    folder, number = Path(sys.argv[2]), int(os.environ["RANK"])
    with closing(Line.to(folder / LINE)) as line:
        try:
            line.tell({"rank": number, "process": os.getpid()})
            from adapters.ml.distributed.orders import carry_out

            carry_out(line, folder, rank=number, world=int(os.environ["WORLD_SIZE"]))
        except Gone:  # the worker has what it wanted, or has ended
            return
        except Exception as error:
            with suppress(Gone):
                line.tell({"failed": type(error).__name__, "places": places(error)})  # a foreign message may quote anything
            sys.exit(1)


if __name__ == "__main__":
    main()
