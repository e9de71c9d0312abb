"""Orthanc that ends by itself is started again, with its storage, within a limit."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from adapters.demo.loopback import free_ports
from adapters.demo.orthanc import OrthancServer, find_program
from pipeline.errors import ArchiveUnreachable
from tests.builders import peers
from tests.builders.dicom_files import dx, file_of

pytestmark = pytest.mark.orthanc


def test_a_server_that_ended_by_itself_is_started_again_with_its_storage(tmp_path: Path) -> None:
    if find_program() is None:
        peers.absent("Orthanc is not installed (Debian package orthanc)")
    (unused_port,) = free_ports(1)
    with OrthancServer(tmp_path, radclipd_port=unused_port, forward=False, restarts=1) as orthanc:
        orthanc.upload(file_of(dx()))
        first = orthanc.pid
        assert first is not None
        os.kill(first, signal.SIGABRT)
        orthanc.upload(file_of(dx()))
        assert orthanc.pid not in (None, first)
        assert orthanc.count_instances() == 2
        assert "ended by itself with status -6: started again" in orthanc.log.read_text()
        assert orthanc.pid is not None
        os.kill(orthanc.pid, signal.SIGABRT)
        with pytest.raises(ArchiveUnreachable, match="cannot be reached"):
            orthanc.count_instances()
