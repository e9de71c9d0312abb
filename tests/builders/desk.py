"""A desk in a folder: a catalog on SQLite, an image store, DICOM films, a worklist and users; served in this process."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from fastapi import FastAPI
from pydicom.dataset import Dataset
from starlette.testclient import TestClient

from adapters.catalog.catalog import SqlCatalog
from adapters.demo.loopback import free_ports
from adapters.dicom.image import part10
from adapters.dicom.image.pixels import DicomImageReader
from adapters.dicom.image.spacing import read_pixel_spacing
from adapters.dicom.sr.text import lines_of_file
from adapters.storage.image_store import FileImageStore
from adapters.web.access import CSRF_HEADER
from adapters.web.application import build_application
from adapters.web.film_bytes import FilmCache
from adapters.web.parts import DeskParts, DeskSettings, DeskTools
from adapters.web.passwords import hash_password
from adapters.web.sessions import LogInLimit, SessionCookies
from pipeline import decisions, rules
from pipeline.acquisition import SelectionPolicy
from pipeline.consensus import LabelPolicy
from pipeline.domain import FINDINGS, PixelSpacing, StoredFile, StoredInstance, StudyState, UserRole
from pipeline.users import add_user
from pipeline.worklist import WorklistPolicy
from tests.builders.catalog_rows import SENDER, worklist_request
from tests.builders.dicom_files import dx, file_of
from tests.builders.fakes.versions import a_version

PASSWORD = "a long password"
SECRET = b"s" * 32
CHEST = rules.ChestPolicy()


@cache
def password_hash() -> str:
    """argon2id takes a tenth of a second by design: once for all tests."""
    return hash_password(PASSWORD)


class Desk:
    """The parts of a desk, and what fills them."""

    def __init__(self, url: str, folder: Path, *, idle_seconds: float = 3600) -> None:
        self.catalog, self.url = SqlCatalog(url, busy_timeout_seconds=10), url
        self.images = FileImageStore(folder)
        self.cookies = SessionCookies(SECRET, idle_seconds=idle_seconds)
        self.limit = LogInLimit()
        self.verbs: list[list[str]] = []
        self.parts = DeskParts(
            catalog=self.catalog,
            films=FilmCache(DicomImageReader(self.images), max_bytes=64 << 20, read_spacing=self._read_spacing),
            cookies=self.cookies,
            settings=DeskSettings(chest=CHEST, worklist=_worklist_policy()),
            tools=DeskTools(read_report=self._read_report, disk_usage=lambda: {"storage_free": 5 << 30}, run_verb=self._run_verb),
            limit=self.limit,
        )
        self.application: FastAPI = build_application(self.parts)

    def _read_report(self, file: StoredFile) -> list[str]:
        return list(lines_of_file(self.images.read(file)))

    def _read_spacing(self, instance: StoredInstance) -> PixelSpacing | None:
        return read_pixel_spacing(self.images.read(instance.file))

    def _run_verb(self, words: Sequence[str]) -> str:
        self.verbs.append(list(words))
        return "done"

    def add_version(self, number: int = 1, **changes: Any) -> None:
        """Let a version serve."""
        with self.catalog.begin() as tx:
            tx.versions.add(a_version(number, **changes))

    def add_film(self, dataset: Dataset, *, request: bool = True, scores: Mapping[str, float] | None = None) -> str:
        """Store one film with the scores of version 1 (.1 where none is given); return its StudyInstanceUID."""
        return self.add_file(file_of(dataset), request=request, scores=scores)

    def add_file(self, content: bytes, *, request: bool = True, scores: Mapping[str, float] | None = None) -> str:
        """Store a DICOM file, as `add_film` does."""
        header = part10.read_header(*part10.split_file(content))
        stored = self.images.write(content)
        study = header.study_instance_uid
        values = np.array([(scores or {}).get(finding, 0.1) for finding in FINDINGS], dtype=np.float32)
        with self.catalog.begin() as tx:
            version = tx.versions.find(1)
            assert version is not None
            predictions = decisions.predict_study(values, version)
            tx.studies.add_instance(header, stored, SENDER, opens_study=True)
            tx.scores.add_image_scores(1, {header.sop_instance_uid: values})
            tx.scores.put_predictions(1, {study: predictions}, tx.studies.next_revisions([study]))
            if request and study not in tx.requests.of_studies([study]):
                tx.requests.append([replace(worklist_request(study), reason="Mass: likely positive")])
            tx.studies.put_state(study, StudyState.SCORED)
        return study

    def add_films(self, count: int, **elements: Any) -> list[str]:
        """Store films of different patients; return their StudyInstanceUIDs in the order of the worklist."""
        return [self.add_film(dx(PatientID=f"T-{number}", AccessionNumber=f"A{number}", **elements)) for number in range(count)]

    def add_user(self, name: str = "alice", role: UserRole = UserRole.READER) -> None:
        """Add a user whose password is PASSWORD."""
        add_user(name, role, password_hash(), catalog=self.catalog, source="test")

    def client(self, name: str = "", **options: Any) -> TestClient:
        """Return a client; with a name, logged in, and with the session's token in its headers."""
        client = TestClient(self.application, base_url="http://desk", follow_redirects=False, **options)
        client.headers["Origin"] = "http://desk"
        if name:
            with self.catalog.read() as tx:
                user = tx.users.find(name)
            assert user is not None
            client.cookies.set("radclipd_session", self.cookies.issue(user))
            client.headers[CSRF_HEADER] = self.cookies.make_csrf_token(user)
        return client

    @contextmanager
    def served(self) -> Iterator[str]:
        """Serve the desk on a thread; give its address."""
        [port] = free_ports(1)
        config = uvicorn.Config(
            self.application, host="127.0.0.1", port=port, log_config=None, access_log=False, timeout_graceful_shutdown=1
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield f"http://127.0.0.1:{port}"
        server.should_exit = True
        thread.join()

    def close(self) -> None:
        self.catalog.dispose()


def _worklist_policy() -> WorklistPolicy:
    return WorklistPolicy(selection=SelectionPolicy(), labels=LabelPolicy(), chest=CHEST, max_patients=1000, request_expiry_days=90)
