"""Every backfill source, with a real Orthanc (REST, DICOMweb, C-FIND with C-GET and C-MOVE) and a real folder."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar, cast

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, JPEG2000Lossless, generate_uid
from pynetdicom import AE, evt

from adapters.catalog.catalog import SqlCatalog
from adapters.demo.loopback import free_ports
from adapters.demo.orthanc import OrthancServer, find_program
from adapters.dicom.image import part10
from adapters.dicom.network.archive import ArchiveSettings
from adapters.dicom.network.dimse import (
    MOVE_DESTINATION_UNKNOWN,
    OUT_OF_RESOURCES,
    PENDING,
    STUDY_ROOT_FIND,
    STUDY_ROOT_GET,
    STUDY_ROOT_MOVE,
    SUCCESS,
)
from adapters.dicom.network.listener import Listener, ListenerSettings
from adapters.dicom.sources.dicomweb import INSTANCE_FORMS, DicomWebSource, OrthancSource, WebSettings, extract_single_part
from adapters.dicom.sources.folder import FolderSource
from adapters.dicom.sources.query_retrieve import RetrieveSettings, RetrieveSource
from adapters.storage.image_store import FileImageStore
from pipeline.backfill import Backfill, BackfillPolicy
from pipeline.domain import Sender
from pipeline.errors import ArchiveUnreachable, ConfigurationError, RefusedByArchive
from pipeline.fetch import FileFetch
from pipeline.ports.backfill import BackfillSource, DateRange
from pipeline.receive import InstanceReceiver, ReceivePolicy, receive
from tests.builders import peers
from tests.builders.dicom_files import dx, encoded, file_of, instance, sr

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
SPRING = DateRange(date(2025, 3, 1), date(2025, 3, 31))


def compressed(content: bytes) -> bytes:
    """The same image in lossless JPEG 2000."""
    film, stream = dcmread(BytesIO(content)), BytesIO()
    film.compress(JPEG2000Lossless, generate_instance_uid=False)
    film.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def as_stored(content: bytes) -> bytes:
    """The file in the image store: the data set is unchanged."""
    encoded_, syntax = part10.split_file(content)
    header = part10.read_header(encoded_, syntax)
    uids = {"sop_class_uid": header.sop_class_uid, "sop_instance_uid": header.sop_instance_uid}
    return part10.file_bytes(encoded_, transfer_syntax_uid=syntax, **uids)


def archived() -> dict[str, bytes]:
    """SOPInstanceUID -> file: two images and a report of a study, a compressed image of another, a CT, an image of last year."""
    study = generate_uid()
    films = [dx(StudyDate="20250310", StudyInstanceUID=study) for _ in range(2)]
    report = sr(StudyDate="20250310", StudyInstanceUID=study)
    other, old = dx(StudyDate="20250322", rows=64, columns=64), dx(StudyDate="20240101")
    slice_ = instance(CTImageStorage, Modality="CT", StudyDate="20250311")
    found = {str(one.SOPInstanceUID): file_of(one) for one in (*films, report, slice_, old)}
    return found | {str(other.SOPInstanceUID): compressed(file_of(other))}


@dataclass
class Pacs:
    orthanc: OrthancServer
    listener_port: int
    files: dict[str, bytes]

    @property
    def wanted(self) -> dict[str, bytes]:
        """SOPInstanceUID -> expected file in the image store, for the images of SPRING."""
        headers = {uid: part10.read_header(*part10.split_file(content)) for uid, content in self.files.items()}
        films = {uid for uid, header in headers.items() if header.modality == "DX" and header.study_date.startswith("202503")}
        assert len(films) == 3
        return {uid: as_stored(self.files[uid]) for uid in films}


@pytest.fixture(scope="module")
def pacs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pacs]:
    if find_program() is None or not PLUGIN.exists():
        peers.absent("Orthanc and its DICOMweb plugin are not installed (Debian packages orthanc, orthanc-dicomweb)")
    (port,) = free_ports(1)
    plugin = {"Plugins": [str(PLUGIN)], "DicomWeb": {"Enable": True, "Root": "/dicom-web/"}}
    with OrthancServer(tmp_path_factory.mktemp("pacs"), radclipd_port=port, forward=False, overrides=plugin) as orthanc:
        files = archived()
        for content in files.values():
            orthanc.upload(content)
        yield Pacs(orthanc, port, files)


@dataclass
class Destination:
    """A catalog and an image store."""

    catalog: SqlCatalog
    images: FileImageStore

    def run(self, source: BackfillSource, days: DateRange | None = SPRING, **policy: object) -> Backfill:
        made = Backfill(
            source=source,
            catalog=self.catalog,
            images=self.images,
            receive_policy=ReceivePolicy(min_free_bytes=0),
            policy=BackfillPolicy(**{"max_tries": 1, **policy}),  # type: ignore[arg-type]  # a row of a table
            on_progress=lambda *_: None,
        )
        made.run(days)
        return made

    def stored_files(self) -> dict[str, bytes]:
        with self.catalog.read() as tx:
            studies = [uid for uid, _ in tx.studies.arriving_studies(limit=100)]
            found = [one for uid in studies for one in tx.studies.instances(uid)]
        return {one.header.sop_instance_uid: self.images.read(one.file) for one in found}


@pytest.fixture
def destination(tmp_path: Path, fresh_url: Callable[[str], str]) -> Iterator[Destination]:
    catalog = SqlCatalog(fresh_url("sqlite"), busy_timeout_seconds=10)
    yield Destination(catalog, FileImageStore(tmp_path / "images"))
    catalog.dispose()


def retrieve(pacs: Pacs, **settings: str) -> RetrieveSource:
    archive = ArchiveSettings(ae_title="ORTHANC", port=pacs.orthanc.dicom_port, calling_ae_title="RADCLIPD", timeout_seconds=10)
    return RetrieveSource(archive, RetrieveSettings(modalities=("CR", "DX"), **settings))


SOURCES: dict[str, Callable[[Pacs], BackfillSource]] = {
    "orthanc": lambda pacs: OrthancSource(WebSettings(url=pacs.orthanc.url, modalities=("CR", "DX"))),
    "dicomweb": lambda pacs: DicomWebSource(WebSettings(url=f"{pacs.orthanc.url}/dicom-web/", modalities=("CR", "DX"))),
    "c-get": retrieve,
}


@pytest.mark.orthanc
@pytest.mark.parametrize("kind", SOURCES)
def test_images_of_the_requested_days_are_stored_unchanged_and_once(kind: str, pacs: Pacs, destination: Destination) -> None:
    run = destination.run(SOURCES[kind](pacs))
    assert destination.stored_files() == pacs.wanted
    assert (run.totals.instances, run.totals.refused, run.failed) == (3, 0, 0)
    with destination.catalog.read() as tx:
        assert tx.backfills.finished_days(SOURCES[kind](pacs).name) == set(SPRING)
    again = destination.run(SOURCES[kind](pacs), repeat_finished=True)
    assert (again.totals.instances, again.totals.duplicates) == (0, 0)


@pytest.mark.orthanc
@pytest.mark.parametrize("kind", SOURCES)
def test_only_missing_instances_are_fetched(kind: str, pacs: Pacs, destination: Destination) -> None:
    uid = next(uid for uid in pacs.wanted if sum(b"20250310" in c for c in [pacs.wanted[uid]]))
    content = pacs.wanted[uid]
    header = part10.read_header(*part10.split_file(content))
    policy = ReceivePolicy(min_free_bytes=0)
    receive(header, content, Sender("A", "", ""), catalog=destination.catalog, images=destination.images, policy=policy)
    run = destination.run(SOURCES[kind](pacs))
    assert (run.totals.instances, run.totals.duplicates) == (2, 0)
    assert destination.stored_files() == pacs.wanted


@pytest.mark.orthanc
@pytest.mark.parametrize("kind", ["dicomweb", "c-get"])
def test_deleted_files_of_a_study_are_fetched_again(kind: str, pacs: Pacs, destination: Destination) -> None:
    destination.run(SOURCES[kind](pacs))
    study = next(part10.read_header(*part10.split_file(content)).study_instance_uid for content in pacs.wanted.values())
    with destination.catalog.begin() as tx:
        instances = tx.studies.instances(study)
        for one in instances:
            tx.retention.mark_deleting(one, pixels_sha256="")
            destination.images.remove(one.file)
            tx.retention.mark_deleted(one.header.sop_instance_uid)
    file_fetch = FileFetch(
        source=SOURCES[kind](pacs),
        catalog=destination.catalog,
        images=destination.images,
        receive_policy=ReceivePolicy(min_free_bytes=0),
    )
    assert file_fetch.fetch_study(study) == len(instances)
    assert destination.stored_files() == pacs.wanted
    assert file_fetch.fetch_study(study) == 0


@pytest.mark.orthanc
def test_an_archive_moves_its_images_to_the_listener(pacs: Pacs, destination: Destination) -> None:
    receiving = InstanceReceiver(catalog=destination.catalog, images=destination.images, policy=ReceivePolicy(min_free_bytes=0))
    listener = Listener(
        ListenerSettings(host="127.0.0.1", port=pacs.listener_port),
        open_incoming=receiving.open_incoming,
        receive=receiving.receive,
        mark_released=lambda _studies, _events: None,
        audit=lambda _event: None,
    )
    listener.start()
    try:
        run = destination.run(retrieve(pacs, move_destination="RADCLIPD"))
    finally:
        listener.drain(2)
    assert destination.stored_files() == pacs.wanted
    assert (run.totals.instances, run.failed) == (3, 0)
    with destination.catalog.read() as tx:
        assert all(tx.backfills.backfilled_studies([uid]) for uid, _ in tx.studies.arriving_studies(limit=9))


@contextmanager
def answering(move: int, find: int = SUCCESS) -> Iterator[RetrieveSource]:
    """An archive of one study; it ends a C-FIND of several days with status `find` and every C-MOVE with `move`."""

    def on_find(event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        query = event.identifier
        if find and len(query.get("StudyDate", "")) == 17 and query.StudyDate[:8] != query.StudyDate[9:]:
            yield find, None
            return
        if query.get("StudyDate", "20250310")[:8] in ("20250310", "20250301"):
            for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
                setattr(query, keyword, "1.2")
            query.Modality = "DX"
            yield PENDING, query

    ae = AE("PACS")
    ae.add_supported_context(STUDY_ROOT_FIND)
    ae.add_supported_context(STUDY_ROOT_MOVE)
    ae.add_supported_context(STUDY_ROOT_GET)
    handlers: list[Any] = [
        (evt.EVT_C_FIND, on_find),
        (evt.EVT_C_MOVE, lambda _event: iter([(None, None) if move == MOVE_DESTINATION_UNKNOWN else move])),
    ]
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    assert server is not None
    archive = ArchiveSettings(ae_title="PACS", port=server.server_address[1], timeout_seconds=5)
    try:
        yield RetrieveSource(archive, RetrieveSettings(modalities=("DX",), move_destination="NOBODY"))
    finally:
        server.shutdown()


def test_an_unknown_move_destination_stops_the_backfill_with_a_hint(destination: Destination) -> None:
    with answering(MOVE_DESTINATION_UNKNOWN) as source, pytest.raises(ConfigurationError, match="NOBODY") as caught:
        destination.run(source)
    assert "AE title" in caught.value.hint


def test_a_query_with_too_many_matches_is_split_by_days() -> None:
    with answering(MOVE_DESTINATION_UNKNOWN, find=OUT_OF_RESOURCES) as source:
        assert [unit.key for unit in source.list_units(SPRING)] == ["1.2"]


@pytest.mark.orthanc
def test_reports_are_fetched_where_their_modality_is_requested(pacs: Pacs, destination: Destination) -> None:
    source = OrthancSource(WebSettings(url=pacs.orthanc.url, modalities=("DX", "SR")))
    assert destination.run(source).totals.instances == 4


@pytest.mark.orthanc
def test_a_path_without_an_api_is_refused(pacs: Pacs, destination: Destination) -> None:
    with pytest.raises(RefusedByArchive, match="404"):
        destination.run(DicomWebSource(WebSettings(url=f"{pacs.orthanc.url}/nothing-here", modalities=("DX",))))


@pytest.mark.orthanc
def test_missing_authorization_is_a_configuration_error(tmp_path: Path, destination: Destination) -> None:
    if find_program() is None:
        peers.absent("Orthanc is not installed (Debian package orthanc)")
    (unused_port,) = free_ports(1)
    guarded = {"AuthenticationEnabled": True, "RegisteredUsers": {"reader": "secret"}}
    with pytest.raises(ConfigurationError, match="401") as caught, _guarded(tmp_path, unused_port, guarded) as orthanc:
        destination.run(OrthancSource(WebSettings(url=orthanc.url, modalities=("DX",))))
    assert "authorization_file" in caught.value.hint
    assert "secret" not in repr(WebSettings(url="http://h", modalities=(), authorization="secret"))


class _guarded(OrthancServer):
    """An Orthanc that requires authentication, also during start-up."""

    def __init__(self, folder: Path, port: int, changes: dict[str, object]) -> None:
        super().__init__(folder, radclipd_port=port, forward=False, overrides=changes)

    def _wait_until_up(self) -> None:
        while True:
            try:
                super().get("/system")
            except RefusedByArchive:
                return
            except ArchiveUnreachable:
                continue


class _Redirects(BaseHTTPRequestHandler):
    """Redirects each request to another name of the same host and records the Host headers."""

    hosts: ClassVar[list[str]] = []

    def do_POST(self) -> None:
        self.hosts.append(str(self.headers["Host"]))
        self.send_response(302)
        self.send_header("Location", f"http://localhost:{cast(tuple[str, int], self.server.server_address)[1]}/")
        self.end_headers()

    do_GET = do_POST

    def log_message(self, format: str, *args: Any) -> None:
        """Suppress the access log."""


class _ChoosyServer(BaseHTTPRequestHandler):
    """A WADO-RS server that knows one value of Accept and refuses the others with a status."""

    accepted: ClassVar[str] = ""
    status: ClassVar[int] = 406
    asked: ClassVar[list[str]] = []
    content: ClassVar[bytes] = b""

    def do_GET(self) -> None:
        accept = str(self.headers["Accept"])
        self.asked.append(accept)
        if accept != self.accepted:
            self.send_error(self.status)
            return
        body = self.content
        kind = "application/dicom"
        if accept.startswith("multipart"):
            kind = 'multipart/related; type="application/dicom"; boundary=b'
            body = b"--b\r\nContent-Type: application/dicom\r\n\r\n" + body + b"\r\n--b--"
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Suppress the access log."""


@contextmanager
def choosy_server(accepted: str, status: int) -> Iterator[DicomWebSource]:
    _ChoosyServer.accepted, _ChoosyServer.status, _ChoosyServer.asked = accepted, status, []
    _ChoosyServer.content = file_of(dx())
    with ThreadingHTTPServer(("127.0.0.1", 0), _ChoosyServer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield DicomWebSource(WebSettings(url=f"http://127.0.0.1:{server.server_address[1]}", modalities=("DX",)))
        server.shutdown()


@pytest.mark.parametrize("status", [406, 415, 400, 501])
@pytest.mark.parametrize("number", range(len(INSTANCE_FORMS)))
def test_a_server_that_refuses_a_form_is_asked_in_the_next_and_asked_so_from_then_on(number: int, status: int) -> None:
    with choosy_server(INSTANCE_FORMS[number], status) as source:
        first, second = source._read_instance("/studies/1"), source._read_instance("/studies/1")
    assert first is not None
    assert first == second
    assert _ChoosyServer.asked == [*INSTANCE_FORMS[: number + 1], INSTANCE_FORMS[number]]


def test_a_server_that_knows_no_form_refuses_with_its_status() -> None:
    with choosy_server("text/html", 406) as source, pytest.raises(RefusedByArchive, match="406"):
        source._read_instance("/studies/1")
    assert _ChoosyServer.asked == list(INSTANCE_FORMS)


def test_an_instance_that_is_not_there_is_asked_for_once() -> None:
    with choosy_server("text/html", 404) as source, pytest.raises(RefusedByArchive, match="404"):
        source._read_instance("/studies/1")
    assert len(_ChoosyServer.asked) == 1


def test_credentials_are_not_sent_to_another_host(destination: Destination) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Redirects) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        with pytest.raises(RefusedByArchive, match="302"):
            destination.run(OrthancSource(WebSettings(url=url, modalities=("DX",), authorization="Bearer secret")))
        server.shutdown()
    assert _Redirects.hosts == [url.removeprefix("http://")]


def test_a_missing_archive_is_unreachable(destination: Destination) -> None:
    (unused_port,) = free_ports(1)
    with pytest.raises(ArchiveUnreachable):
        destination.run(OrthancSource(WebSettings(url=f"http://127.0.0.1:{unused_port}", modalities=("DX",), timeout_seconds=2)))


@pytest.mark.parametrize("url", ["ftp://host/", "host", "http://", "http://user:secret@host/", "http://host/?token=secret"])
def test_an_invalid_url_is_refused_without_quoting_it(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        OrthancSource(WebSettings(url=url, modalities=("DX",)))
    assert "secret" not in str(caught.value)
    assert caught.value.hint


def test_the_part_of_a_multipart_response_is_found_for_any_content() -> None:
    body = b"\0\r\n\r\n--\xff\r\n--not the boundary\r\n"
    for kind, mark in (
        ('multipart/related; boundary="a b"; type="application/dicom"', b"a b"),
        ("multipart/related; boundary=x", b"x"),
    ):
        answer = b"--" + mark + b"\r\nContent-Type: application/dicom\r\n\r\n" + body + b"\r\n--" + mark + b"--"
        assert extract_single_part(answer, kind) == body
    assert extract_single_part(body, "application/dicom") == body
    for broken in ("multipart/related", "multipart/related; boundary=x"):
        with pytest.raises(RefusedByArchive):
            extract_single_part(b"nothing of the kind", broken)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Images with and without preamble, an old one, a CT, a broken file, and files of other types."""
    root = tmp_path / "tree"
    for name in ("2025-03-10/a", "2025-03-22/b", "2024"):
        (root / name).mkdir(parents=True)
    (root / "2025-03-10/a/1").write_bytes(file_of(dx(StudyDate="20250310")))
    (root / "2025-03-10/a/2.dcm").write_bytes(encoded(dx(StudyDate="20250310")))
    (root / "2025-03-22/b/1.dcm").write_bytes(compressed(file_of(dx(StudyDate="20250322", rows=64, columns=64))))
    (root / "2024/1.dcm").write_bytes(file_of(dx(StudyDate="20240101")))
    (root / "2024/ct.dcm").write_bytes(file_of(instance(CTImageStorage, Modality="CT", StudyDate="20240101")))
    (root / "2024/broken.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\xff" * 40)
    (root / "README.txt").write_text("not a film")
    (root / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM")
    os.mkfifo(root / "pipe")
    (root / "nowhere").symlink_to(root / "missing")
    return root


def test_a_tree_is_imported_and_other_files_are_skipped(tree: Path, destination: Destination) -> None:
    run = destination.run(FolderSource(tree, days=None, other_storage="refuse"), None)
    assert (run.totals.instances, run.totals.refused, run.totals.others) == (4, 1, 5)
    again = destination.run(FolderSource(tree, days=None, other_storage="refuse"), None)
    assert (again.totals.instances, again.totals.duplicates, again.totals.others) == (0, 0, 0)


def test_an_added_file_is_imported_by_the_next_run(tree: Path, destination: Destination) -> None:
    destination.run(FolderSource(tree, days=None, other_storage="refuse"), None)
    (tree / "2024/2.dcm").write_bytes(file_of(dx(StudyDate="20240102")))
    run = destination.run(FolderSource(tree, days=None, other_storage="refuse"), None)
    assert (run.totals.instances, run.totals.duplicates) == (1, 1)


def test_only_the_requested_days_of_a_tree_are_imported(tree: Path, destination: Destination) -> None:
    run = destination.run(FolderSource(tree, days=SPRING, other_storage="refuse"), SPRING)
    assert run.totals.instances == 3
    assert (
        FolderSource(tree, days=SPRING, other_storage="refuse").name != FolderSource(tree, days=None, other_storage="refuse").name
    )


def test_a_missing_folder_is_unreachable(tree: Path, destination: Destination) -> None:
    with pytest.raises(ArchiveUnreachable, match="no such folder"):
        destination.run(FolderSource(tree / "elsewhere", days=None, other_storage="refuse"), None)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_read_permission_is_refused(tree: Path, destination: Destination) -> None:
    (tree / "2024/1.dcm").chmod(0)
    assert destination.run(FolderSource(tree, days=None, other_storage="refuse"), None).totals.refused == 2


def test_no_path_is_stored_in_the_catalog(tmp_path: Path, destination: Destination) -> None:
    (tmp_path / "tree/DOE^JOHN").mkdir(parents=True)
    (tmp_path / "tree/DOE^JOHN/x.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\xff" * 40)
    destination.run(FolderSource(tmp_path / "tree", days=None, other_storage="refuse"), None)
    assert b"DOE^JOHN" not in (tmp_path / "catalog.db").read_bytes() + (tmp_path / "catalog.db-wal").read_bytes()
