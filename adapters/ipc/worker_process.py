"""A process that serves this one through a connection: foreign code over bytes of any origin runs there, in limited memory.

It is a program of its own, started by its module, and not a fork: this process has threads.
"""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Self

from adapters.ipc.parent_death import die_with_parent
from pipeline.errors import OutOfResources

START_SECONDS = 60.0
"""Time for the process to start and import its libraries on a busy machine."""


@dataclass(slots=True)
class WorkerProcess:
    """The process, and this side of its connection."""

    process: subprocess.Popen[bytes]
    connection: Connection

    @classmethod
    def start(
        cls,
        module: str,
        *arguments: object,
        memory_bytes: int,
        environment: Mapping[str, str],
        descriptors: Sequence[int] = (),
    ) -> Self:
        """Run a module whose `main` begins with `connect_to_parent`, and wait for its first message, None. OutOfResources.

        `memory_bytes`: limit of its address space. `descriptors`: of this process, inherited.
        """
        local, remote = socket.socketpair()
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", module, *map(str, (remote.fileno(), os.getpid(), memory_bytes, *arguments))],
            env={**os.environ, **environment, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            stdin=subprocess.DEVNULL,
            pass_fds=(remote.fileno(), *descriptors),
            process_group=0,
        )
        remote.close()
        worker = cls(process, Connection(local.detach()))
        try:
            if worker.connection.poll(START_SECONDS):
                worker.connection.recv()
                return worker
        except (EOFError, OSError):
            pass
        worker.kill()
        raise OutOfResources(f"the process {module} does not start", hint="is memory short? its own message is in the log")

    def kill(self) -> None:
        """Kill the process and close the connection."""
        self.process.kill()
        self.process.wait()
        self.connection.close()


def connect_to_parent() -> tuple[Connection, list[str]]:
    """Return the connection to the parent, and the further arguments of the command line. The process ends with its parent.

    The address space is limited, at most to the limit that the process has already.
    """
    descriptor, parent, limit = map(int, sys.argv[1:4])
    die_with_parent(parent)  # also while a codec hangs and the connection is not read
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    bounded = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    resource.setrlimit(resource.RLIMIT_AS, (bounded, bounded))
    return Connection(descriptor), sys.argv[4:]
