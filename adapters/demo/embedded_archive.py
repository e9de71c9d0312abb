"""Embedded archive for hosts without Orthanc: stores instances, answers C-FIND, and forwards on request."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Set
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, build_context, evt
from pynetdicom.transport import ThreadedAssociationServer

from adapters.dicom.image import part10
from adapters.dicom.network.dimse import CANNOT_UNDERSTAND, PENDING, STUDY_ROOT_FIND, SUCCESS, VERIFICATION
from pipeline.rules import OWN_MODEL_NAME

RADIOGRAPH_MODALITIES = {"CR", "DX"}


class EmbeddedArchive:
    """A storage and query SCP on the loopback. It accepts any AE and trusts SOP Instance UIDs as file names."""

    def __init__(self, folder: Path, *, ae_title: str = "ORTHANC", port: int = 0) -> None:
        self.folder, self.ae_title = folder, ae_title
        self._files: dict[str, dict[str, Path]] = {}  # study -> SOP Instance UID -> file
        self._lock = threading.Lock()
        self._server = self._start_server(port)

    def _start_server(self, port: int) -> ThreadedAssociationServer:
        ae = AE(self.ae_title)
        ae.maximum_pdu_size = 0
        for context in AllStoragePresentationContexts:
            ae.add_supported_context(context.abstract_syntax or "", ALL_TRANSFER_SYNTAXES)
        ae.add_supported_context(VERIFICATION)
        ae.add_supported_context(STUDY_ROOT_FIND)
        self.folder.mkdir(parents=True, exist_ok=True)
        handlers = [(evt.EVT_C_ECHO, lambda _e: SUCCESS), (evt.EVT_C_STORE, self._on_store), (evt.EVT_C_FIND, self._on_find)]
        server = ae.start_server(("127.0.0.1", port), block=False, evt_handlers=handlers)  # type: ignore[arg-type]  # loose there
        assert server is not None
        return server

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self._server.server_address[1])

    def stop(self) -> None:
        """Stop listening; the files stay."""
        self._server.shutdown()

    def store(self, content: bytes) -> str:
        """Store a DICOM file; return its SOP Instance UID."""
        header = part10.read_header(*part10.split_file(content))
        path = self.folder / f"{header.sop_instance_uid}.dcm"
        path.write_bytes(content)
        with self._lock:
            self._files.setdefault(header.study_instance_uid, {})[header.sop_instance_uid] = path
        return header.sop_instance_uid

    def list_files(self, study_instance_uid: str) -> list[Path]:
        """Return the files of a study."""
        with self._lock:
            return list(self._files.get(study_instance_uid, {}).values())

    def forward(
        self, study_instance_uid: str, *, host: str, port: int, ae_title: str, modalities: Set[str] = RADIOGRAPH_MODALITIES
    ) -> int:
        """C-STORE the instances of the given modalities of a study; return the number accepted. ConnectionError.

        radclipd's own reports are never forwarded.
        """
        found = [dcmread(path) for path in self.list_files(study_instance_uid)]
        found = [one for one in found if one.Modality in modalities and one.get("ManufacturerModelName") != OWN_MODEL_NAME]
        if not found:
            return 0
        pairs = {(str(one.SOPClassUID), str(one.file_meta.TransferSyntaxUID)) for one in found}
        association = AE(self.ae_title).associate(
            host, port, contexts=[build_context(uid, [syntax]) for uid, syntax in sorted(pairs)], ae_title=ae_title
        )
        if not association.is_established:
            raise ConnectionError(f"{ae_title} at {host}:{port} accepts no association")
        answers = [association.send_c_store(one) for one in found]
        association.release()
        return sum(answer.get("Status") == SUCCESS for answer in answers)

    def _on_store(self, event: evt.Event) -> int:
        try:
            self.store(event.encoded_dataset())
        except Exception:  # after any error the sender must not receive Success
            return CANNOT_UNDERSTAND
        return SUCCESS

    def _on_find(self, event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        """Answer a C-FIND of Study level, by StudyInstanceUID, or of Image level, by SOPInstanceUID (PS3.4 C.6.2.1)."""
        wanted = str(event.identifier.get("StudyInstanceUID", ""))
        found = self.list_files(wanted)
        if event.identifier.get("QueryRetrieveLevel", "") == "IMAGE":
            uid = str(event.identifier.get("SOPInstanceUID", ""))
            if any(path.stem == uid and path.exists() for path in found):
                answer = Dataset()
                answer.QueryRetrieveLevel, answer.StudyInstanceUID, answer.SOPInstanceUID = "IMAGE", wanted, uid
                yield PENDING, answer
        elif found:
            answer = Dataset()
            answer.QueryRetrieveLevel, answer.StudyInstanceUID = "STUDY", wanted
            answer.NumberOfStudyRelatedInstances = len(found)
            yield PENDING, answer
