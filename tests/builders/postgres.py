"""A temporary PostgreSQL cluster: Debian's server on a Unix socket in a temporary folder, one database for each test."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.builders import leftovers, peers


class Cluster:
    """A running server. As root its programs run as user postgres: PostgreSQL refuses root."""

    def __init__(self, folder: Path, programs: Path, *, durable: bool = False) -> None:
        self.folder, self.programs, self._durable = folder, programs, durable
        self._as_user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        self._template = ""

    def run(self, *command: str) -> str:
        done = subprocess.run(
            [*self._as_user, str(self.programs / command[0]), *command[1:]],
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        return done.stdout

    def start(self) -> None:
        if self._as_user:
            shutil.chown(self.folder, "postgres")
        self.run("initdb", "-D", str(self.folder / "cluster"), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync")
        options = f"-c listen_addresses='' -c unix_socket_directories='{self.folder}' -c max_connections=200"
        options += "" if self._durable else " -c fsync=off"
        options += f" -c cluster_name={os.environ.get(leftovers.SESSION, '')}"  # in the command line: `leftovers`
        self.run("pg_ctl", "-D", str(self.folder / "cluster"), "-w", "-l", str(self.folder / "log"), "-o", options, "start")

    def stop(self) -> None:
        self.run("pg_ctl", "-D", str(self.folder / "cluster"), "-m", "immediate", "-w", "stop")

    def psql(self, database: str, *arguments: str) -> str:
        return self.run(
            "psql", "-h", str(self.folder), "-U", "postgres", "-v", "ON_ERROR_STOP=1", "-qAt", "-d", database, *arguments
        )

    def database(self, template: str = "template1") -> str:
        """Make a database; return its name."""
        name = f"t{uuid.uuid4().hex[:12]}"
        self.run("createdb", "-h", str(self.folder), "-U", "postgres", "-T", template, name)
        return name

    def url(self, database: str, user: str = "postgres") -> str:
        return f"postgresql+psycopg://{user}@/{database}?host={self.folder}"

    def upgraded(self) -> str:
        """Return the URL of a new database with the schema: a copy of a template that is upgraded once."""
        from adapters.catalog import schema

        if not self._template:
            self._template = self.database()
            schema.upgrade(self.url(self._template))
        return self.url(self.database(self._template))


@contextmanager
def cluster(*, durable: bool = False) -> Iterator[Cluster]:
    """Run a cluster while the block lasts; `durable`: with fsync, as Debian's, so that commits survive a power cut."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    if not found:
        peers.absent("PostgreSQL's server is not installed (Debian package postgresql)")
    folder = Path(tempfile.mkdtemp(prefix="rc-pg-"))  # a short path: it holds a Unix socket
    running = Cluster(folder, found[-1].parent, durable=durable)
    try:
        running.start()
        yield running
    finally:
        if (folder / "cluster" / "postmaster.pid").exists():
            running.stop()
        shutil.rmtree(folder, ignore_errors=True)
