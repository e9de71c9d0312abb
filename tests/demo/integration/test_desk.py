"""`radclipd demo --hold` serves the desk with a user of its own."""

from __future__ import annotations

from pathlib import Path

import httpx2

from adapters.demo.installation import DESK_USER, DemoInstallation
from adapters.demo.loopback import free_ports
from tests.builders.installation import wait_for


def test_the_desk_of_the_demonstration_opens_with_the_printed_password(tmp_path: Path) -> None:
    [port] = free_ports(1)
    installation = DemoInstallation(tmp_path, port=port, archive_ae_title="ORTHANC", archive_port=1)
    installation.run_verb("db", "upgrade")
    address, password = installation.serve_desk()
    try:
        wait_for(lambda: answers(f"{address}/health/ready"), seconds=60, explain=lambda: "\n".join(installation.read_log_tail(20)))
        answer = httpx2.post(f"{address}/log-in", data={"name": DESK_USER, "password": password}, headers={"Origin": address})
        assert (answer.status_code, answer.headers["location"]) == (303, "/")
        assert password not in installation.log.read_text()
    finally:
        installation.stop()


def answers(address: str) -> bool:
    try:
        return httpx2.get(address).status_code == 200
    except httpx2.TransportError:
        return False
