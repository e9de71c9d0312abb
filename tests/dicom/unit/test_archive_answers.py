"""What an archive answers to a query, and what is made of answers that no standard allows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest
from pydicom.dataset import Dataset

from adapters.dicom.network.archive import ArchiveSettings
from adapters.dicom.sources.dicomweb import DicomWebSource, OrthancSource, WebSettings
from adapters.dicom.sources.query_retrieve import RetrieveSettings, RetrieveSource
from pipeline.errors import RefusedByArchive
from pipeline.ports.backfill import BackfillUnit


@contextmanager
def answering(content: bytes) -> Iterator[WebSettings]:
    """An HTTP server that gives one answer to everything."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(content)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.do_GET()

        def log_message(self, *_values: object) -> None:
            """Print nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        serving = Thread(target=server.serve_forever, daemon=True)
        serving.start()
        yield WebSettings(url=f"http://127.0.0.1:{server.server_port}", modalities=("DX",), timeout_seconds=5)
        server.shutdown()
        serving.join()


@pytest.mark.parametrize("content", [b'{"0020000D": 1}', b"[1, 2]", b'"text"', b"7"])
def test_an_answer_that_is_no_list_of_objects_is_refused(content: bytes) -> None:
    with answering(content) as settings:
        for source in (DicomWebSource(settings), OrthancSource(settings)):
            with pytest.raises(RefusedByArchive, match="no list of objects"):
                source.list_units(None)


@pytest.mark.parametrize(
    "content", [b'[{"0020000D": {"Value": null}}]', b'[{"0020000D": null}]', b'[{"0020000D": {"Value": 1}}]', b"[{}]"]
)
def test_a_study_without_a_uid_is_left_out(content: bytes) -> None:
    with answering(content) as settings:
        assert DicomWebSource(settings).list_units(None) == []


@pytest.mark.parametrize("content", [b"[{}]", b'[{"MainDicomTags": 1, "ID": "x"}]', b'[{"MainDicomTags": {}}]'])
def test_a_resource_that_orthanc_does_not_give_is_refused(content: bytes) -> None:
    with answering(content) as settings, pytest.raises(RefusedByArchive, match="MainDicomTags"):
        OrthancSource(settings).list_units(None)


def test_a_match_without_a_uid_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    source = RetrieveSource(ArchiveSettings(), RetrieveSettings(modalities=("DX",)))
    row = Dataset()
    row.Modality = "DX"
    asked: list[str] = []

    def send_find(_association: object, query: Dataset) -> list[Dataset]:
        asked.append(query.QueryRetrieveLevel)
        return [row]

    monkeypatch.setattr(source, "_send_find", send_find)
    monkeypatch.setattr(source, "_open_query_association", contextmanager(lambda: iter([None])))
    unit = BackfillUnit(key="1.2", study_instance_uid="1.2")
    assert source.fetch(unit, lambda _uids: set(), lambda _object: None) == 0
    row.SeriesInstanceUID = "1.2.3"
    assert source.fetch(unit, lambda _uids: set(), lambda _object: None) == 0
    assert asked == ["SERIES", "SERIES", "IMAGE"]
