"""The desk of the real daemon in Chromium: films come by C-STORE, readers label them, and their statements reach the archive."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest
from playwright.sync_api import Browser, Page, expect
from pydicom import dcmread
from pydicom.dataset import Dataset

from adapters.catalog.catalog import SqlCatalog
from adapters.demo.embedded_archive import EmbeddedArchive
from pipeline.domain import StudyState
from tests.builders.browser import chromium
from tests.builders.catalog_rows import SENDER, chest_header, worklist_request
from tests.builders.desk import PASSWORD
from tests.builders.desk_pages import log_in, opened_page
from tests.builders.dicom_files import dx
from tests.builders.installation import Installation, free_port, wait_for
from tests.builders.sql import rows

FILMS = 10
READER_SERIES = "Reader's findings - alice"


@dataclass
class Hospital:
    """A running daemon with ten scored films."""

    place: Installation
    archive: EmbeddedArchive
    films: list[Dataset]
    address: str

    def count(self, sql: str) -> int:
        [(number,)] = rows(self.place.url, sql)
        return int(str(number))

    def wait(self, sql: str, number: int) -> None:
        wait_for(lambda: self.count(sql) >= number, 90, lambda: f"{sql}: {self.count(sql)}\n{self.describe_jobs()}")

    def describe_jobs(self) -> str:
        jobs = rows(self.place.url, "SELECT kind, state, error, COUNT(*) FROM v_jobs GROUP BY 1, 2, 3")
        return "\n".join(map(str, jobs)) + self.place.read_log()[-2000:]


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory, template: Installation) -> Iterator[Hospital]:
    folder, port = tmp_path_factory.mktemp("desk"), free_port()
    web = {"enabled": True, "port": port, "directory": str(folder / "web"), "second_reading": 1.0, "repeated_reading": 0.0}
    place = Installation(folder, web=web | {"reader_documents": True})
    place.copy_of(template)
    for name, role in (("alice", "reader"), ("bob", "reader"), ("root", "administrator")):
        place.run("users", "add", name, "--role", role, "--password-stdin", stdin=f"{PASSWORD}\n")
    films = [dx(rows=300, columns=260, PatientID=f"T-{number}", AccessionNumber=f"A{number}") for number in range(FILMS)]
    with place.archive() as archive, place.running():
        place.forward(archive, *films)
        ready = Hospital(place, archive, films, f"http://127.0.0.1:{port}")
        ready.wait("SELECT COUNT(DISTINCT study_instance_uid) FROM v_predictions", FILMS)
        wait_for(lambda: is_ready(ready.address), 60, place.read_log)
        yield ready


def is_ready(address: str) -> bool:
    try:
        return httpx2.get(f"{address}/health/ready").status_code == 200
    except httpx2.TransportError:
        return False


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


def wait_for_film(page: Page, other_than: str = "") -> str:
    page.wait_for_function("old => (document.querySelector('#film').dataset.instance ?? '') !== old", arg=other_than)
    return str(page.evaluate("document.querySelector('#film').dataset.instance"))


def read_films(page: Page, count: int, keys: tuple[str, ...]) -> None:
    """Say the keys of each film, then Enter."""
    shown = wait_for_film(page)
    for number in range(count):
        for key in (*keys, "Enter"):
            page.keyboard.press(key)
        if number < count - 1:
            shown = wait_for_film(page, shown)


def test_two_readers_label_ten_films_and_a_third_decides(hospital: Hospital, browser: Browser) -> None:
    with ExitStack() as pages:
        alice = pages.enter_context(opened_page(browser))
        alice.goto(f"{hospital.address}/log-in")
        log_in(alice, "alice", PASSWORD)
        alice.click("text=Ask for 20 more")  # the tiny model's worklist is made on request
        read_films(alice, FILMS, ("m", "Shift+L"))
        hospital.wait("SELECT COUNT(*) FROM v_labels WHERE reader = 'alice'", 14 * FILMS)
        told = rows(
            hospital.place.url, "SELECT finding, state, COUNT(*) FROM v_labels WHERE state <> 'absent' GROUP BY 1, 2 ORDER BY 1"
        )
        assert told == [("Mass", "present", FILMS), ("Nodule", "uncertain", FILMS)]
        assert hospital.count("SELECT COUNT(*) FROM v_labels WHERE exposure = 'seen' OR source <> 'desk'") == 0

        expect(alice.locator("#reveal")).to_contain_text("The film before: 12 absent, 1 present, 1 uncertain")
        alice.keyboard.press("Backspace")
        expect(alice.locator(".finding[data-finding=Edema] .result")).to_be_visible()
        alice.keyboard.press("d")
        alice.keyboard.press("Enter")
        hospital.wait("SELECT COUNT(*) FROM v_labels WHERE exposure = 'seen' AND finding = 'Edema' AND state = 'present'", 1)

        bob = pages.enter_context(opened_page(browser))
        bob.goto(f"{hospital.address}/log-in")
        log_in(bob, "bob", PASSWORD)
        read_films(bob, FILMS, ("x",))
        hospital.wait("SELECT COUNT(*) FROM v_labels WHERE reader = 'bob'", 14 * FILMS)

        root = pages.enter_context(opened_page(browser))
        root.goto(f"{hospital.address}/log-in")
        log_in(root, "root", PASSWORD)
        root.goto(f"{hospital.address}/readers")
        expect(root.locator("main")).to_contain_text("alice and bob")
        root.click("main a[href^='/readers/dispute']")
        wait_for_film(root)
        root.click("tr:has-text('Mass') button:has-text('absent')")
        expect(root.locator("#act-words")).to_contain_text("1 label stored")
    assert rows(hospital.place.url, "SELECT finding, state, selection_reason FROM v_labels WHERE reader = 'root'") == [
        ("Mass", "absent", "verdict")
    ]


def test_a_readers_document_reaches_the_archive_and_comes_back_without_labels(hospital: Hospital) -> None:
    study = hospital.films[0].StudyInstanceUID
    hospital.wait("SELECT COUNT(*) FROM v_readings WHERE reader = 'alice' AND document_state = 'sent'", FILMS)
    sent = [path for path in hospital.archive.list_files(study) if is_of_alice(path)]
    assert sent
    before = hospital.count("SELECT COUNT(*) FROM v_labels")
    port = hospital.place.port
    hospital.archive.forward(study, host="127.0.0.1", port=port, ae_title="RADCLIPD", modalities={"SR"})
    hospital.wait(f"SELECT COUNT(*) FROM v_jobs WHERE kind = 'label' AND state = 'done' AND subject = '{sent[0].stem}'", 1)
    assert hospital.count("SELECT COUNT(*) FROM v_labels") == before
    assert hospital.count("SELECT COUNT(*) FROM v_jobs WHERE state = 'quarantined'") == 0


def is_of_alice(path: Path) -> bool:
    return str(dcmread(path, specific_tags=["SeriesDescription"]).get("SeriesDescription", "")) == READER_SERIES


def test_a_worklist_of_a_thousand_studies_is_read(hospital: Hospital, browser: Browser) -> None:
    catalog = SqlCatalog(hospital.place.url, busy_timeout_seconds=30)
    with catalog.begin() as tx:
        stored = tx.studies.find_instance(hospital.films[0].SOPInstanceUID)
        assert stored is not None
        studies = [f"1.9.{number}" for number in range(1000)]
        for number, study in enumerate(studies):
            header = chest_header(study, f"{study}.1", patient_id=f"P{number}")
            tx.studies.add_instance(header, stored.file, SENDER, opens_study=True)
            tx.studies.put_state(study, StudyState.IGNORED, reason="not scored in this test")
        tx.requests.append([worklist_request(study) for study in studies])
    catalog.dispose()
    with opened_page(browser) as page:
        page.goto(f"{hospital.address}/log-in")
        log_in(page, "alice", PASSWORD)
        assert wait_for_film(page) == "1.9.0.1"
        expect(page.locator("#session-words")).to_contain_text("1000 to read")
        page.keyboard.press("n")
        assert wait_for_film(page, "1.9.0.1") == "1.9.1.1"
        expect(page.locator("#session-words")).to_contain_text("999 to read")
