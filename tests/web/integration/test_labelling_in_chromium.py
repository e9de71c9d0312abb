"""The labelling page in Debian's Chromium: keys, reveal, reload, a lost connection, an ended session, greys of the films."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from io import BytesIO

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image as PillowImage
from playwright.sync_api import Browser, Page, expect

from adapters.dicom.image.pixels import DicomImageReader
from pipeline.users import reset_password
from tests.builders.browser import chromium
from tests.builders.desk import PASSWORD, Desk, password_hash
from tests.builders.desk_films import DESK_FILMS
from tests.builders.desk_pages import log_in, opened_page
from tests.builders.dicom_files import dx
from tests.builders.sql import rows

STATES_SQL = "SELECT finding, state FROM v_labels WHERE study_instance_uid = '{}' AND state <> 'absent' AND revoked = 0 ORDER BY 1"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.fixture
def address(desk: Desk) -> Iterator[str]:
    desk.add_user()
    with desk.served() as served:
        yield served


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    """A page of alice, logged in; an error of a script fails the test."""
    with opened_page(browser) as opened:
        opened.goto(f"{address}/log-in")
        log_in(opened, "alice", PASSWORD)
        yield opened


def open_desk(page: Page, address: str, query: str = "") -> None:
    page.goto(f"{address}/label{query}")
    wait_for_film(page)


def wait_for_film(page: Page, other_than: str = "") -> str:
    page.wait_for_function("old => (document.querySelector('#film').dataset.instance ?? '') !== old", arg=other_than)
    return str(page.evaluate("document.querySelector('#film').dataset.instance"))


def wait_for_labels(page: Page, desk: Desk, count: int) -> None:
    for _ in range(100):
        if rows(desk.url, "SELECT count(*) FROM labels") == [(count,)]:
            return
        page.wait_for_timeout(50)
    pytest.fail(f"{rows(desk.url, 'SELECT count(*) FROM labels')} labels, where {count} are expected")


def test_ten_films_are_labelled_by_keys(desk: Desk, address: str, page: Page) -> None:
    studies = desk.add_films(10)
    open_desk(page, address)
    shown = wait_for_film(page)
    for number in range(10):
        if number % 3 == 0:
            page.keyboard.press("m")
            page.keyboard.press("Shift+L")
            expect(page.locator("#statement-words")).to_have_text("Enter says: 12 absent, 1 present, 1 uncertain.")
            page.keyboard.press("Enter")
        elif number % 3 == 1:
            page.keyboard.press("n")
        else:
            for key in ("x", "e", "u"):
                page.keyboard.press(key)
            page.keyboard.press("Enter")
        shown = wait_for_film(page, shown) if number < 9 else shown
    wait_for_labels(page, desk, 140)
    for number, study in enumerate(studies):
        said = [[("Mass", "present"), ("Nodule", "uncertain")], [], [("Pneumothorax", "present")]][number % 3]
        assert rows(desk.url, STATES_SQL.format(study)) == said
    assert rows(desk.url, "SELECT DISTINCT reader, source, exposure FROM v_labels") == [("alice", "desk", "none")]
    expect(page.locator("#film-message")).to_contain_text("The worklist is empty.")
    expect(page.locator("#session-words")).to_have_text("10 read, 0 to read")


def test_the_result_comes_after_the_statement_and_a_changed_mind_is_marked(desk: Desk, address: str, page: Page) -> None:
    first = desk.add_film(dx(PatientID="T-0"), scores={"Mass": 0.91})
    desk.add_films(1)
    open_desk(page, address)
    assert "operating point" not in page.content()
    shown = wait_for_film(page)
    page.keyboard.press("c")
    page.keyboard.press("Enter")
    second = wait_for_film(page, shown)
    reveal = page.locator("#reveal")
    expect(reveal).to_contain_text("The film before: 13 absent, 1 present")
    expect(reveal).to_contain_text("Mass: very likely, above its operating point")
    expect(reveal).to_contain_text("Asked for: Mass: likely positive")
    page.keyboard.press("Backspace")
    wait_for_film(page, second)
    expect(page.locator(".finding[data-finding=Mass] .result")).to_have_text("present")
    page.keyboard.press("m")
    page.keyboard.press("Enter")
    wait_for_film(page, shown)
    wait_for_labels(page, desk, 15)
    sql = f"SELECT state, exposure, revoked FROM v_labels WHERE finding = 'Mass' AND study_instance_uid = '{first}' ORDER BY id"
    assert rows(desk.url, sql) == [("absent", "none", 1), ("present", "seen", 0)]


def test_a_reload_and_a_lost_connection_lose_nothing(desk: Desk, address: str, page: Page) -> None:
    studies = desk.add_films(4)
    open_desk(page, address)
    shown = wait_for_film(page)
    page.keyboard.press("e")
    page.keyboard.press("/")
    page.keyboard.type("small, left")
    page.keyboard.press("Escape")
    page.reload()
    wait_for_film(page)
    expect(page.locator(".finding[data-finding=Effusion]")).to_have_attribute("data-said", "present")
    expect(page.locator("#comment")).to_have_value("small, left")
    page.wait_for_function("() => performance.getEntriesByType('resource').filter(e => e.name.includes('/films')).length >= 3")
    page.wait_for_timeout(200)
    page.context.set_offline(True)
    page.keyboard.press("Enter")
    shown = wait_for_film(page, shown)
    page.keyboard.press("d")
    page.keyboard.press("Enter")
    wait_for_film(page, shown)
    expect(page.locator("#connection")).to_contain_text("no connection, 2 to send")
    assert rows(desk.url, "SELECT count(*) FROM labels") == [(0,)]
    page.context.set_offline(False)
    wait_for_labels(page, desk, 28)
    assert rows(desk.url, STATES_SQL.format(studies[0])) == [("Effusion", "present")]
    assert rows(desk.url, STATES_SQL.format(studies[1])) == [("Edema", "present")]
    assert rows(desk.url, "SELECT comment FROM v_readings ORDER BY id") == [("small, left",), ("",)]


def test_an_ended_session_keeps_what_was_said(desk: Desk, address: str, page: Page) -> None:
    [study, _] = desk.add_films(2)
    open_desk(page, address)
    wait_for_film(page)
    reset_password("alice", password_hash(), catalog=desk.catalog, source="test")
    page.keyboard.press("b")
    expect(page.locator("#log-in-dialog")).to_be_visible()
    page.keyboard.press("Enter")  # meant for the film: it must not lead away
    page.click("#log-in-dialog a")
    log_in(page, "alice", PASSWORD)
    wait_for_film(page)
    expect(page.locator(".finding[data-finding=Fibrosis]")).to_have_attribute("data-said", "present")
    page.keyboard.press("Enter")
    wait_for_labels(page, desk, 14)
    assert rows(desk.url, STATES_SQL.format(study)) == [("Fibrosis", "present")]


def test_the_place_a_skip_and_the_views(desk: Desk, address: str, page: Page) -> None:
    first = desk.add_film(dx(rows=400, columns=400, StudyDate="20260105"))
    desk.add_film(dx(rows=400, columns=300, StudyInstanceUID=first, StudyDate="20260105", ViewPosition="LL", InstanceNumber=2))
    desk.add_film(dx(rows=400, columns=400, StudyDate="20240105"), request=False)
    desk.add_films(1)
    open_desk(page, address)
    frontal = wait_for_film(page)
    words = page.locator("#film-words")
    expect(words).to_contain_text("PA · 2026-01-05 · F")
    page.keyboard.press("p")
    expect(words).to_contain_text("PRIOR · PA · 2024-01-05 · F")
    page.keyboard.press("p")
    page.keyboard.press("v")
    expect(words).to_contain_text("LL · 2026-01-05 · F")
    page.keyboard.press("v")
    expect(words).to_contain_text("PA · 2026-01-05 · F")
    page.click(".finding[data-finding=Mass] [data-state=present]")
    box = page.locator("#film").bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.keyboard.press("g")  # the magnifier, at the place of the mouse: it shows the film's own pixels
    page.mouse.move(box["x"] + box["width"] / 2 + 3, box["y"] + box["height"] / 2)
    page.keyboard.press("g")
    page.keyboard.press("Enter")
    wait_for_film(page, frontal)
    wait_for_labels(page, desk, 14)
    with desk.catalog.read() as tx:
        reading = tx.readings.find_last(first, "alice")
    assert reading is not None
    assert reading.points["Mass"] == pytest.approx((200, 200), abs=2)
    page.keyboard.press("s")
    page.keyboard.press("1")
    expect(page.locator("#film-message")).to_contain_text("The worklist is empty.")
    assert rows(desk.url, "SELECT skip_reason FROM v_readings ORDER BY id") == [("",), ("poor quality",)]


READ_CANVAS = "document.querySelector('#film').toDataURL('image/png').split(',')[1]"


def read_canvas(page: Page) -> npt.NDArray[np.int16]:
    """The greys of the canvas, int16 [H, W]."""
    with PillowImage.open(BytesIO(base64.b64decode(page.evaluate(READ_CANVAS)))) as picture:
        colours = np.asarray(picture.convert("RGB"), dtype=np.int16)
    assert (colours == colours[..., :1]).all()
    return colours[..., 0]


@pytest.mark.parametrize("painter", ["plain", "gl"])
def test_the_canvas_shows_the_greys_of_the_encoder(painter: str, desk: Desk, address: str, page: Page) -> None:
    """One to one, each pixel of the film equals the encoder's image to one grey level."""
    for number, build in enumerate(DESK_FILMS.values()):
        film = build()
        film.PatientID = f"T-{number}"
        desk.add_film(film)
    open_desk(page, address, f"?{painter}")
    kind = page.evaluate("document.querySelector('#film').getContext('2d') ? 'plain' : 'gl'")
    if kind != painter:
        pytest.skip("this Chromium has no WebGL2")
    shown = ""
    for name in DESK_FILMS:
        shown = wait_for_film(page, shown)
        page.keyboard.press("z")
        page.wait_for_timeout(100)
        with desk.catalog.read() as tx:
            instance = tx.studies.find_instance(shown)
        assert instance is not None
        wanted = np.rint(255 * DicomImageReader(desk.images).read(instance))
        canvas = read_canvas(page)
        top, left = ((full - part) / 2 for full, part in zip(canvas.shape, wanted.shape, strict=True))
        shifts = [(int(np.floor(top)) + y, int(np.floor(left)) + x) for y in (0, 1) for x in (0, 1)]
        parts = [canvas[y : y + wanted.shape[0], x : x + wanted.shape[1]] for y, x in shifts]
        assert min(int(np.abs(part - wanted).max()) for part in parts) <= 1, name
        page.keyboard.press("n")
