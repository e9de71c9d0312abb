"""Every page in Debian's Chromium: no serious fault by axe, no error of a script, and what is live stays live."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from pipeline.domain import JobKind, UserRole, VersionState
from tests.builders.browser import chromium
from tests.builders.catalog_rows import import_statement
from tests.builders.desk import PASSWORD, Desk
from tests.builders.desk_pages import find_axe_faults, log_in, opened_page
from tests.builders.dicom_files import dx

PORTRAIT = (1080, 1920)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.fixture
def filled(desk: Desk) -> Desk:
    """A desk with an administrator, two studies, a candidate version, labels and a job in quarantine."""
    desk.add_user("root", UserRole.ADMINISTRATOR)
    desk.add_version(2, state=VersionState.CANDIDATE, reason="waits")
    desk.add_films(2)
    labelled = desk.add_film(dx(PatientID="T-9"), scores={"Mass": 0.9})
    import_statement(desk.catalog, labelled, reader="dr.csv")
    with desk.catalog.begin() as tx:
        tx.jobs.put(JobKind.SCORE, labelled)
        [job] = tx.jobs.claim([JobKind.SCORE], worker="w", lease_seconds=5)
        tx.jobs.quarantine(job, error="unreadable")
    return desk


def list_pages(desk: Desk) -> list[str]:
    with desk.catalog.read() as tx:
        [newest] = tx.views.select("v_studies", ["study_instance_uid"], order=["-last_received_at"], limit=1)
    return ["/label", "/studies", f"/studies/{newest['study_instance_uid']}", "/operations", "/model", "/readers", "/nothing"]


@pytest.mark.parametrize("size", [(1366, 768), PORTRAIT])
def test_axe_finds_no_serious_fault_on_any_page(filled: Desk, browser: Browser, size: tuple[int, int]) -> None:
    with filled.served() as address, opened_page(browser, size=size) as page:
        page.goto(f"{address}/log-in")
        faults = {"/log-in": find_axe_faults(page)}
        log_in(page, "root", PASSWORD)
        for path in list_pages(filled):
            page.goto(address + path)
            page.wait_for_load_state("load")
            if path == "/label":
                page.wait_for_selector("#film[data-instance]")
                page.keyboard.press("m")
                faults[f"{path} keys"] = open_dialog(page, "?", "#keys-dialog")
                faults[f"{path} skip"] = open_dialog(page, "s", "#skip-dialog")
            faults[path] = find_axe_faults(page)
        assert {path: found for path, found in faults.items() if found} == {}


def open_dialog(page: Page, key: str, dialog: str) -> list[str]:
    page.keyboard.press(key)
    expect(page.locator(dialog)).to_be_visible()
    faults = find_axe_faults(page)
    page.keyboard.press("Escape")
    return faults


@pytest.mark.parametrize("size", [(1366, 768), PORTRAIT])
def test_the_film_has_three_quarters_of_the_height(filled: Desk, browser: Browser, size: tuple[int, int]) -> None:
    with filled.served() as address, opened_page(browser, size=size) as page:
        page.goto(f"{address}/log-in")
        log_in(page, "root", PASSWORD)
        page.wait_for_selector("#film[data-instance]")
        box = page.locator("#film").bounding_box()
        assert box is not None
        assert box["height"] >= 0.75 * size[1]
        assert page.evaluate("document.documentElement.scrollHeight <= innerHeight")


def test_operations_are_live_and_retry(filled: Desk, browser: Browser) -> None:
    with filled.served() as address, opened_page(browser) as page:
        page.goto(f"{address}/log-in")
        log_in(page, "root", PASSWORD)
        page.goto(f"{address}/operations")
        expect(page.locator("#live")).to_have_text("live")
        page.click("[data-retry]")
        expect(page.locator("#act-words")).to_have_text("1 jobs queued again.")
        expect(page.locator("#now")).to_contain_text("Nothing is in quarantine.")


def test_a_promotion_asks_for_its_reason(filled: Desk, browser: Browser) -> None:
    with filled.served() as address, opened_page(browser) as page:
        page.goto(f"{address}/log-in")
        log_in(page, "root", PASSWORD)
        page.goto(f"{address}/model")
        page.click("text=Promote")
        page.fill("#reason", "better on Mass")
        page.click("#reason-form button.primary")
        expect(page.locator("#act-words")).to_have_text("done")
        assert filled.verbs == [["versions", "promote", "2"]]
        page.click("[data-log-out]")
        page.wait_for_url("**/log-in")
        page.goto(f"{address}/model")
        page.wait_for_url("**/log-in")
