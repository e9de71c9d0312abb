"""The hospital's archive as the demonstration uses it: Orthanc, or, where Orthanc cannot be had, the embedded one."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Protocol

from pydicom import dcmread

from adapters.hospital.archive import EmbeddedArchive
from adapters.hospital.installation import AE_TITLE
from adapters.hospital.loopback import LOOPBACK
from adapters.hospital.orthanc import OrthancServer
from pipeline.errors import ArchiveUnreachable, CannotStart
from pipeline.rules import OWN_MODEL_NAME


class HospitalArchive(Protocol):
    """Where films are kept and reports come back to."""

    @property
    def ae_title(self) -> str: ...
    @property
    def port(self) -> int:
        """Its DICOM port on the loopback."""

    @property
    def place(self) -> str:
        """Where a person can look at it."""

    def take(self, study_instance_uid: str, files: list[bytes]) -> None:
        """Take in a study; it goes on to radclipd by the archive's own doing."""

    def reports(self, study_instance_uid: str) -> list[bytes]:
        """Return radclipd's SRs of a study as DICOM files."""

    def stop(self) -> None:
        """Stop it."""


class OrthancArchive:
    """Orthanc with `deploy/orthanc/radclipd.lua`: it forwards by itself. CannotStart where it cannot be had."""

    def __init__(self, folder: Path, *, radclipd_port: int) -> None:
        self._server = OrthancServer(folder, radclipd_port=radclipd_port, changes={"Radclipd": {"FirstWait": 2}})
        self._server.start()
        self.ae_title, self.port, self.place = (
            self._server.ae_title,
            self._server.dicom_port,
            f"{self._server.url}/app/explorer.html",
        )

    def take(self, study_instance_uid: str, files: list[bytes]) -> None:
        for content in files:
            self._server.upload(content)

    def reports(self, study_instance_uid: str) -> list[bytes]:
        found = [self._server.download(instance) for instance in self._server.instances(study_instance_uid, "SR")]
        return [content for content in found if _ours(content)]

    def stop(self) -> None:
        self._server.stop()


class OwnArchive:
    """The embedded archive: it forwards each study when all of it has been taken in."""

    def __init__(self, folder: Path, *, radclipd_port: int) -> None:
        self._archive = EmbeddedArchive(folder / "storage")
        self._radclipd_port = radclipd_port
        self.ae_title, self.port, self.place = self._archive.ae_title, self._archive.port, str(self._archive.folder)

    def take(self, study_instance_uid: str, files: list[bytes]) -> None:
        for content in files:
            self._archive.keep(content)
        try:
            accepted = self._archive.forward(study_instance_uid, host=LOOPBACK, port=self._radclipd_port, ae_title=AE_TITLE)
        except ConnectionError as error:
            raise ArchiveUnreachable(f"the embedded archive could not forward to radclipd: {error}") from error
        if not accepted:
            raise ArchiveUnreachable(f"radclipd accepted nothing of study {study_instance_uid}")

    def reports(self, study_instance_uid: str) -> list[bytes]:
        found = [path.read_bytes() for path in self._archive.files_of(study_instance_uid)]
        return [content for content in found if _ours(content)]

    def stop(self) -> None:
        self._archive.stop()


def _ours(content: bytes) -> bool:
    header = dcmread(BytesIO(content), stop_before_pixels=True, specific_tags=["Modality", "ManufacturerModelName"])
    return (header.get("Modality"), header.get("ManufacturerModelName")) == ("SR", OWN_MODEL_NAME)


def open_archive(folder: Path, *, radclipd_port: int, embedded: bool) -> tuple[HospitalArchive, str]:
    """Start an archive; return it and, in words, what it is: where it is not Orthanc, why."""
    if not embedded:
        try:
            return OrthancArchive(folder, radclipd_port=radclipd_port), "Orthanc"
        except CannotStart as error:
            reason = str(error).splitlines()[0]
    else:
        reason = "asked for"
    return OwnArchive(folder, radclipd_port=radclipd_port), f"the EMBEDDED archive, not Orthanc ({reason})"
