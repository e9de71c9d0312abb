"""Orthanc on free loopback ports in a scratch folder, configured by the files of `deploy/orthanc`."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Self

from adapters.demo.loopback import LOOPBACK, free_ports
from pipeline.errors import ArchiveUnreachable, FatalError, RefusedByArchive

PROGRAM = "Orthanc"
SBIN = "/usr/sbin:/usr/local/sbin"
"""Debian installs Orthanc outside the PATH of an ordinary user."""
MODALITY = "radclipd"
"""Symbolic name of radclipd among the modalities of `deploy/orthanc/orthanc.json`."""
START_SECONDS, STOP_SECONDS, REQUEST_SECONDS, END_SECONDS = 30.0, 15.0, 60.0, 10.0
JSON = "application/json"


def find_program() -> str | None:
    """Return the path of Orthanc, or None where it is not installed."""
    return shutil.which(PROGRAM) or shutil.which(PROGRAM, path=SBIN)


def deploy_folder() -> Path:
    """Return the folder of deployment files: beside the code in a clone, under share/ in an installation."""
    candidates = (Path(__file__).parents[2] / "deploy", Path(sys.prefix) / "share" / "radclipd" / "deploy")
    for candidate in candidates:
        if (candidate / "orthanc" / "orthanc.json").exists():
            return candidate
    raise FatalError(f"deploy/orthanc/orthanc.json is neither below {candidates[0]} nor below {candidates[1]}")


class OrthancServer:
    """Orthanc in `folder`, forwarding to a radclipd on `radclipd_port` of the loopback. FatalError where it is not installed.

    `overrides` replace keys of the shipped configuration; `forward=False` omits the forwarding script. A server that ended by
    itself is started again at the next request, at most `restarts` times, as a service manager would: its storage stays.
    """

    def __init__(
        self,
        folder: Path,
        *,
        radclipd_port: int,
        radclipd_ae_title: str = "RADCLIPD",
        stable_seconds: int = 1,
        forward: bool = True,
        overrides: dict[str, Any] | None = None,
        restarts: int = 0,
    ) -> None:
        found = find_program()
        if found is None:
            raise FatalError("Orthanc is not installed on this host", hint="apt-get install orthanc")
        self._program = found
        self.folder = folder
        self.http_port, self.dicom_port = free_ports(2)
        self.ae_title = "ORTHANC"
        self.log = folder / "orthanc.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._restarts_left, self._restarting = restarts, threading.RLock()
        self._configuration = _build_configuration(folder, self.http_port, self.dicom_port) | {
            "DicomModalities": {MODALITY: {"AET": radclipd_ae_title, "Host": LOOPBACK, "Port": radclipd_port, "Timeout": 30}},
            "StableAge": stable_seconds,
            "LuaScripts": [str(deploy_folder() / "orthanc" / "radclipd.lua")] if forward else [],
            **(overrides or {}),
        }

    @property
    def url(self) -> str:
        """URL of the REST API and the Explorer."""
        return f"http://{LOOPBACK}:{self.http_port}"

    @property
    def pid(self) -> int | None:
        """Process ID of the running server, None otherwise."""
        return self._process.pid if self._process else None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start the server and wait until it answers. FatalError with the end of its log where it does not."""
        (self.folder / "storage").mkdir(parents=True, exist_ok=True)
        configuration = self.folder / "orthanc.json"
        configuration.write_text(json.dumps(self._configuration, indent=2))
        with self.log.open("ab") as log:
            # A new session: timers (see radclipd.lua) end with it, and only the caller handles Ctrl-C.
            self._process = subprocess.Popen(
                [self._program, str(configuration)],
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        try:
            self._wait_until_up()
        except BaseException:
            self.stop()
            raise

    def _wait_until_up(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                self._request_once("GET", "/system")
            except ArchiveUnreachable:
                time.sleep(0.05)
            else:
                return
        tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-8:])
        raise FatalError(f"Orthanc did not come up within {START_SECONDS:.0f} s:\n{tail}", hint=f"see {self.log}")

    def stop(self) -> None:
        """Stop the server and its children; kill them at the deadline."""
        process, self._process = self._process, None
        if process is None:
            return
        try:
            process.terminate()
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # a sleeping timer, if any

    def upload(self, content: bytes) -> str:
        """Store one DICOM file; return Orthanc's identifier of its study."""
        return str(self._request_json("POST", "/instances", content, "application/dicom")["ParentStudy"])

    def get(self, path: str) -> Any:
        """GET a JSON resource. ArchiveUnreachable, RefusedByArchive."""
        return self._request_json("GET", path)

    def post(self, path: str, body: Any) -> Any:
        """POST JSON; return JSON. ArchiveUnreachable, RefusedByArchive."""
        return self._request_json("POST", path, json.dumps(body).encode(), JSON)

    def find_study(self, study_instance_uid: str) -> str | None:
        """Return Orthanc's identifier of a study, or None."""
        found = self.post("/tools/find", {"Level": "Study", "Query": {"StudyInstanceUID": study_instance_uid}})
        return str(found[0]) if found else None

    def find_instances(self, study_instance_uid: str, modality: str | None = None) -> list[str]:
        """Return Orthanc's identifiers of the instances of a study, all or of one modality."""
        study = self.find_study(study_instance_uid)
        series = self.get(f"/studies/{study}/series") if study else []
        return [
            str(instance)
            for one in series
            if modality in (None, one["MainDicomTags"].get("Modality"))
            for instance in one["Instances"]
        ]

    def download(self, instance: str) -> bytes:
        """Return the DICOM file of one instance."""
        return self._request_bytes("GET", f"/instances/{instance}/file")

    def count_instances(self) -> int:
        """Return the number of instances in Orthanc."""
        return int(self.get("/statistics")["CountInstances"])

    def _request_json(self, method: str, path: str, body: bytes | None = None, kind: str = JSON) -> Any:
        return json.loads(self._request_bytes(method, path, body, kind) or b"null")

    def _request_bytes(self, method: str, path: str, body: bytes | None = None, kind: str = JSON) -> bytes:
        while True:
            process = self._process
            try:
                return self._request_once(method, path, body, kind)
            except ArchiveUnreachable:
                if not self._restart_ended(process):
                    raise

    def _restart_ended(self, process: subprocess.Popen[bytes] | None) -> bool:
        """Start the server again if this process of it has ended by itself; return whether another one runs now."""
        with self._restarting:
            if self._process is not process:
                return self._process is not None  # another thread has started it
            if process is None or not self._restarts_left or not _wait_for_end(process):
                return False
            self._restarts_left -= 1
            with self.log.open("a") as log:
                log.write(f"ended by itself with status {process.returncode}: started again\n")
            self.stop()
            self.start()
            return True

    def _request_once(self, method: str, path: str, body: bytes | None = None, kind: str = JSON) -> bytes:
        request = urllib.request.Request(self.url + path, data=body, method=method, headers={"Content-Type": kind})
        try:
            with urllib.request.urlopen(request, timeout=REQUEST_SECONDS) as answer:
                return bytes(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                raise RefusedByArchive(f"Orthanc answered {error.code} to {method} {path.split('?')[0]}") from error
        except (urllib.error.URLError, OSError) as error:
            raise ArchiveUnreachable(f"Orthanc at {self.url} cannot be reached", hint=f"see {self.log}") from error


def _wait_for_end(process: subprocess.Popen[bytes]) -> bool:
    """Return whether the process has ended: its sockets close a little before it does."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(END_SECONDS)
    return process.returncode is not None


def _build_configuration(folder: Path, http_port: int, dicom_port: int) -> dict[str, Any]:
    shipped: dict[str, Any] = json.loads((deploy_folder() / "orthanc" / "orthanc.json").read_text())
    return shipped | {
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "HttpPort": http_port,
        "DicomPort": dicom_port,
        "HttpBindAddresses": [LOOPBACK],
        "SyncStorageArea": False,  # a scratch archive need not survive a power cut
        "DicomAssociationCloseDelay": 1,
    }
