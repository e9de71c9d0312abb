"""The OHIF viewer, served with a same-origin proxy to an archive's DICOMweb. Its pinned package comes from npm, into a cache."""

from __future__ import annotations

import base64
import fcntl
import hashlib
import http.client
import json
import mimetypes
import shutil
import subprocess
import tarfile
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.builders import peers

PACKAGE, VERSION = "@ohif/app", "3.13.2"
INTEGRITY = "sha512-WZdxmpmG7rqFgW9ZJLcbgr3XCtLi1KDNPoMaeY5PPe6j4G4fjEjjkycZM6C6Zk2F87BKxFfpq+jd5xXZB9E8EA=="
CACHE = Path(__file__).parents[2] / ".cache"
UNUSED = ("dist/ort/", "dist/dicom-microscopy-viewer/", "dist/assets/images/")
"""Parts of the package that chest films do not need: half of its bytes."""
FETCH_SECONDS = 300
PROXIED = ("/dicom-web", "/wado")
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "content-encoding", "host", "accept-encoding"}
CONFIGURATION = {
    "routerBasename": None,
    "extensions": [],
    "modes": [],
    "customizationService": {},
    "showStudyList": True,
    "maxNumberOfWebWorkers": 2,
    "showWarningMessageForCrossOrigin": False,
    "showCPUFallbackMessage": False,
    "showLoadingIndicator": True,
    "strictZSpacingForVolumeViewport": True,
    "investigationalUseDialog": {"option": "never"},
    "defaultDataSourceName": "archive",
    "dataSources": [
        {
            "namespace": "@ohif/extension-default.dataSourcesModule.dicomweb",
            "sourceName": "archive",
            "configuration": {
                "friendlyName": "archive",
                "name": "archive",
                "wadoUriRoot": "/wado",
                "qidoRoot": "/dicom-web",
                "wadoRoot": "/dicom-web",
                "qidoSupportsIncludeField": False,
                "imageRendering": "wadors",
                "thumbnailRendering": "wadors",
                "enableStudyLazyLoad": True,
                "supportsFuzzyMatching": False,
                "supportsWildcard": True,
                "omitQuotationForMultipartRequest": True,
                "bulkDataURI": {"enabled": True, "relativeResolution": "studies"},
            },
        }
    ],
}
"""OHIF's configuration: its defaults, one DICOMweb source at this server, no dialogs."""


def application() -> Path:
    """Return the folder of the built viewer; fetch it where it is not in the cache. Skips, or fails, where it cannot be had."""
    ready = CACHE / f"ohif-{VERSION}"
    CACHE.mkdir(exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of test processes that start together, one fetches
        if not ready.exists():
            with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
                _unpack(_fetch(Path(scratch)), Path(scratch) / "unpacked")
                (Path(scratch) / "unpacked").rename(ready)
    return ready


def _fetch(folder: Path) -> Path:
    npm = peers.require("npm", "npm")
    try:
        subprocess.run(
            [npm, "pack", f"{PACKAGE}@{VERSION}", "--silent", "--pack-destination", str(folder)],
            check=True,
            capture_output=True,
            timeout=FETCH_SECONDS,
            cwd=folder,
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        peers.absent(f"npm cannot fetch {PACKAGE} {VERSION}")
    (archive,) = folder.glob("*.tgz")
    found = "sha512-" + base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    assert found == INTEGRITY, f"{PACKAGE} {VERSION} is not the package that was pinned: {found}"
    return archive


def _unpack(archive: Path, folder: Path) -> None:
    """Unpack the viewer, without the parts not needed and without source maps."""
    with tarfile.open(archive) as packed:
        for member in packed:
            path = member.name.removeprefix("package/")
            if member.isfile() and path.startswith("dist/") and not path.startswith(UNUSED) and not path.endswith(".map"):
                target = folder / path.removeprefix("dist/")
                target.parent.mkdir(parents=True, exist_ok=True)
                source = packed.extractfile(member)
                assert source is not None
                with source, target.open("wb") as written:
                    shutil.copyfileobj(source, written)


class _Handler(BaseHTTPRequestHandler):
    """Files of the viewer; requests below PROXIED go to the archive."""

    protocol_version = "HTTP/1.1"
    root: Path
    archive: str

    def do_GET(self) -> None:
        if self.path.startswith(PROXIED):
            self._forward()
        else:
            self._send_file()

    do_POST = do_GET

    def log_message(self, *_: Any) -> None:
        """Print nothing."""

    def _forward(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        to = urlsplit(self.archive)
        connection = http.client.HTTPConnection(to.hostname or "", to.port, timeout=60)
        try:
            headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP_BY_HOP}
            headers["Host"] = str(self.headers["Host"])  # the archive's absolute URLs lead back here
            connection.request(self.command, self.path, body or None, headers)
            answer = connection.getresponse()
            kept = [(name, value) for name, value in answer.getheaders() if name.lower() not in HOP_BY_HOP]
            self._send(answer.status, answer.read(), kept)
        finally:
            connection.close()

    def _send_file(self) -> None:
        path = urlsplit(self.path).path.lstrip("/")
        if path == "app-config.js":
            self._send(200, f"window.config = {json.dumps(CONFIGURATION)};".encode(), [("Content-Type", "text/javascript")])
            return
        file = (self.root / path).resolve()
        if not file.is_relative_to(self.root) or not file.is_file():
            file = self.root / "index.html"  # a page of the single-page application
        kind = "application/wasm" if file.suffix == ".wasm" else mimetypes.guess_type(file.name)[0] or "application/octet-stream"
        self._send(200, file.read_bytes(), [("Content-Type", kind), ("Cache-Control", "max-age=3600")])

    def _send(self, status: int, content: bytes, headers: list[tuple[str, str]]) -> None:
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print nothing: a browser that leaves a page breaks off its requests."""


@contextmanager
def serving(archive: str) -> Iterator[str]:
    """Serve the viewer on the loopback before the archive with this URL, with DICOMweb at /dicom-web; give the viewer's URL."""
    handler = type("Handler", (_Handler,), {"root": application().resolve(), "archive": archive})
    server = _Server(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
