"""pgbouncer in front of a temporary PostgreSQL: a pooler in transaction mode."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from adapters.demo.loopback import free_ports
from tests.builders import peers
from tests.builders.postgres import Cluster

CONFIGURATION = """
[databases]
{database} = host={host} dbname={database} user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
auth_type = any
pool_mode = transaction
default_pool_size = {size}
unix_socket_dir =
logfile = {folder}/bouncer.log
pidfile = {folder}/bouncer.pid
{more}
"""


@contextmanager
def pgbouncer(cluster: Cluster, database: str, *, size: int = 2, more: str = "") -> Iterator[str]:
    """Run pgbouncer while the block lasts; yield the URL of the database through it. `more`: lines of its configuration."""
    program = shutil.which("pgbouncer", path=os.environ.get("PATH", "") + ":/usr/sbin")
    if program is None:
        peers.absent("pgbouncer is not installed (Debian package pgbouncer)")
    folder = Path(tempfile.mkdtemp(prefix="rc-pgb-"))
    (port,) = free_ports(1)
    values = {"database": database, "host": cluster.folder, "port": port, "size": size, "folder": folder, "more": more}
    (folder / "bouncer.ini").write_text(CONFIGURATION.format(**values))
    as_user: list[str] = []
    if os.geteuid() == 0:
        as_user = ["runuser", "-u", "postgres", "--"]
        shutil.chown(folder, "postgres")
        (folder / "bouncer.ini").chmod(0o644)
    running = subprocess.Popen([*as_user, str(program), str(folder / "bouncer.ini")], stderr=subprocess.DEVNULL)
    try:
        _wait_for_port(port)
        yield f"postgresql+psycopg://radclipd@127.0.0.1:{port}/{database}"
    finally:
        running.terminate()
        running.wait(10)
        shutil.rmtree(folder, ignore_errors=True)


def _wait_for_port(port: int) -> None:
    ends_at = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if time.monotonic() > ends_at:
                raise
            time.sleep(0.05)
        else:
            return
