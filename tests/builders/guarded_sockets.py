"""A sitecustomize that refuses every connection of a process and of its children, but those to named ports of the loopback."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path

PEERS, REFUSED = "GUARDED_PEERS", "GUARDED_REFUSALS"
SITECUSTOMIZE = f'''
import os, sys
peers = {{int(port) for port in os.environ["{PEERS}"].split(",")}}

def refuse(what):
    with open(os.environ["{REFUSED}"], "a") as file:
        file.write(what + "\\n")
    raise ConnectionRefusedError(111, "guarded")

def is_ours(port):
    """Tell whether a process with this guard listens on a port of the loopback."""
    inodes = [line.split()[9] for line in open("/proc/net/tcp").readlines()[1:] if line.split()[3] == "0A"
              and int(line.split()[1].split(":")[1], 16) == port]
    for process in filter(str.isdecimal, os.listdir("/proc")):
        try:
            if os.environ["{REFUSED}"].encode() not in open(f"/proc/{{process}}/environ", "rb").read():
                continue
            held = [os.readlink(f"/proc/{{process}}/fd/{{number}}") for number in os.listdir(f"/proc/{{process}}/fd")]
        except OSError:
            continue
        if any(f"socket:[{{inode}}]" in held for inode in inodes):
            peers.add(port)
            return True
    return False

def hook(event, arguments):
    if event == "socket.connect":
        address = arguments[1]
        if isinstance(address, tuple) and (address[0] != "127.0.0.1" or address[1] not in peers and not is_ours(address[1])):
            refuse(f"connect {{address}}")
    elif event == "socket.getaddrinfo" and arguments[0] not in (None, "127.0.0.1", "localhost", "0.0.0.0", b"127.0.0.1"):
        refuse(f"resolve {{arguments[0]}}")

sys.addaudithook(hook)
'''


def guard_environment(folder: Path, peers: Collection[int]) -> Mapping[str, str]:
    """Return the environment of a guarded process; its refused attempts are lines of `folder`/refused."""
    (folder / "sitecustomize.py").write_text(SITECUSTOMIZE)
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH", "")]))
    return {"PYTHONPATH": path, PEERS: ",".join(map(str, peers)), REFUSED: str(folder / "refused")}


def read_refusals(folder: Path) -> list[str]:
    """Return the refused attempts, one line each."""
    refused = folder / "refused"
    return refused.read_text().splitlines() if refused.exists() else []
