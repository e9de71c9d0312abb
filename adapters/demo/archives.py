"""Archive of the demonstration: Orthanc or, where Orthanc is not available, the embedded archive."""

from __future__ import annotations

from collections.abc import Set
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Protocol

from pydicom import dcmread
from pydicom.dataset import Dataset

from adapters.demo.embedded_archive import RADIOGRAPH_MODALITIES, EmbeddedArchive
from adapters.demo.installation import AE_TITLE
from adapters.demo.loopback import LOOPBACK
from adapters.demo.orthanc import OrthancServer
from adapters.dicom.sr.document import SR_CLASS_UIDS
from pipeline.errors import ArchiveUnreachable, FatalError
from pipeline.rules import OWN_MODEL_NAME


class HospitalArchive(Protocol):
    """Archive that keeps films and receives reports."""

    @property
    def ae_title(self) -> str: ...
    @property
    def port(self) -> int:
        """Its DICOM port on the loopback."""

    @property
    def location(self) -> str:
        """URL or folder for a person to inspect."""

    def store_study(self, study_instance_uid: str, files: list[bytes]) -> None:
        """Store a study; the archive forwards it to radclipd by itself."""

    def fetch_radiographs(self, study_instance_uid: str) -> list[bytes]:
        """Return the radiographs of a study as DICOM files."""

    def store_document(self, study_instance_uid: str, document: bytes) -> None:
        """Add a document to an existing study; the archive forwards it to radclipd by itself."""

    def fetch_reports(self, study_instance_uid: str) -> list[bytes]:
        """Return radclipd's SRs of a study as DICOM files."""

    def stop(self) -> None:
        """Stop it."""


MAX_RESTARTS = 3
"""Orthanc 1.10 was seen to end by a fault of its own ("corrupted size vs. prev_size") while it received and forwarded."""


class OrthancHospitalArchive:
    """Orthanc with `deploy/orthanc/radclipd.lua`: it forwards by itself. FatalError where it is not available."""

    def __init__(self, folder: Path, *, radclipd_port: int) -> None:
        overrides = {"Radclipd": {"FirstWait": 2}}
        self._server = OrthancServer(folder, radclipd_port=radclipd_port, overrides=overrides, restarts=MAX_RESTARTS)
        self._server.start()
        self.ae_title, self.port, self.location = (
            self._server.ae_title,
            self._server.dicom_port,
            f"{self._server.url}/app/explorer.html",
        )

    def store_study(self, study_instance_uid: str, files: list[bytes]) -> None:
        for content in files:
            self._server.upload(content)

    def fetch_radiographs(self, study_instance_uid: str) -> list[bytes]:
        found = [self._server.find_instances(study_instance_uid, modality) for modality in sorted(RADIOGRAPH_MODALITIES)]
        return [self._server.download(instance) for instances in found for instance in instances]

    def store_document(self, study_instance_uid: str, document: bytes) -> None:
        self._server.upload(document)

    def fetch_reports(self, study_instance_uid: str) -> list[bytes]:
        found = [self._server.download(instance) for instance in self._server.find_instances(study_instance_uid, "SR")]
        return [content for content in found if _is_own_report(content)]

    def stop(self) -> None:
        self._server.stop()


class EmbeddedHospitalArchive:
    """The embedded archive; each study is forwarded once it is stored completely."""

    def __init__(self, folder: Path, *, radclipd_port: int) -> None:
        self._archive = EmbeddedArchive(folder / "storage")
        self._radclipd_port = radclipd_port
        self.ae_title, self.port, self.location = self._archive.ae_title, self._archive.port, str(self._archive.folder)

    def store_study(self, study_instance_uid: str, files: list[bytes]) -> None:
        for content in files:
            self._archive.store(content)
        self._forward_study(study_instance_uid, RADIOGRAPH_MODALITIES)

    def fetch_radiographs(self, study_instance_uid: str) -> list[bytes]:
        found = [path.read_bytes() for path in self._archive.list_files(study_instance_uid)]
        return [content for content in found if _read_header(content).get("Modality") in RADIOGRAPH_MODALITIES]

    def store_document(self, study_instance_uid: str, document: bytes) -> None:
        self._archive.store(document)
        self._forward_study(study_instance_uid, {_read_header(document).Modality})

    def fetch_reports(self, study_instance_uid: str) -> list[bytes]:
        found = [path.read_bytes() for path in self._archive.list_files(study_instance_uid)]
        return [content for content in found if _is_own_report(content)]

    def _forward_study(self, study_instance_uid: str, modalities: Set[str]) -> None:
        forward = partial(self._archive.forward, host=LOOPBACK, port=self._radclipd_port, ae_title=AE_TITLE)
        try:
            accepted = forward(study_instance_uid, modalities=modalities)
        except ConnectionError as error:
            raise ArchiveUnreachable(f"the embedded archive could not forward to radclipd: {error}") from error
        if not accepted:
            raise ArchiveUnreachable(f"radclipd accepted nothing of study {study_instance_uid}")

    def stop(self) -> None:
        self._archive.stop()


def _is_own_report(content: bytes) -> bool:
    """Tell whether a file is an SR of radclipd: not a visible object, nor a document of another maker."""
    head = _read_header(content)
    return head.get("SOPClassUID") in SR_CLASS_UIDS.values() and head.get("ManufacturerModelName") == OWN_MODEL_NAME


def _read_header(content: bytes) -> Dataset:
    return dcmread(BytesIO(content), stop_before_pixels=True, specific_tags=["SOPClassUID", "Modality", "ManufacturerModelName"])


def open_archive(folder: Path, *, radclipd_port: int, embedded: bool) -> tuple[HospitalArchive, str]:
    """Start an archive; return it and its description, with the reason where it is not Orthanc."""
    if not embedded:
        try:
            return OrthancHospitalArchive(folder, radclipd_port=radclipd_port), "Orthanc"
        except FatalError as error:
            reason = str(error).splitlines()[0]
    else:
        reason = "asked for"
    return EmbeddedHospitalArchive(folder, radclipd_port=radclipd_port), f"the EMBEDDED archive, not Orthanc ({reason})"
