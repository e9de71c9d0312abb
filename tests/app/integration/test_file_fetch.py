"""The archive as the source of deleted files: as the configuration says, whether it is in reach or not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from adapters.app.compose import Parts
from adapters.app.file_fetch import make_file_fetch
from adapters.config.sections import Config
from adapters.dicom.sources.dicomweb import DicomWebSource
from adapters.dicom.sources.query_retrieve import RetrieveSource
from tests.builders.certificates import CertificateAuthority

NOWHERE = "pacs.invalid"


@pytest.fixture
def folder(tmp_path: Path, sqlite_template: Path) -> Path:
    """A folder with an empty catalog."""
    (tmp_path / "catalog.db").write_bytes(sqlite_template.read_bytes())
    return tmp_path


def make_source(folder: Path, **sections: Any) -> object:
    usual: dict[str, Any] = {"catalog": {"url": f"sqlite:///{folder}/catalog.db"}, "storage": {"directory": folder / "images"}}
    with Parts(Config(**usual, **sections)) as parts:
        return make_file_fetch(parts).source


@pytest.mark.parametrize(("fetch", "destination"), [("get", ""), ("move", "RADCLIPD")])
def test_an_archive_that_is_out_of_reach_does_not_keep_the_daemon_from_starting(folder: Path, fetch: str, destination: str) -> None:
    source = make_source(folder, archive={"host": NOWHERE}, retention={"fetch": fetch})
    assert isinstance(source, RetrieveSource)
    assert (source._retrieval.move_destination, source._tls) == (destination, None)


def test_a_dicomweb_service_that_is_out_of_reach_does_not_either(folder: Path) -> None:
    assert isinstance(make_source(folder, retention={"dicomweb_url": f"https://{NOWHERE}/dicom-web"}), DicomWebSource)


def test_files_come_back_over_tls_where_reports_leave_over_tls(folder: Path) -> None:
    authority = CertificateAuthority(folder)
    files = authority.issue("radclipd.example")
    tls = {"certificate_file": str(files.certificate), "key_file": str(files.key), "ca_file": str(authority.ca_file)}
    source = make_source(folder, archive={"host": NOWHERE, "tls": True}, tls=tls)
    assert isinstance(source, RetrieveSource)
    assert source._tls is not None
