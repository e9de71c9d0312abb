"""The objects of the real daemon in viewers that hospitals use: OHIF, and Orthanc's web viewer, in Debian's Chromium."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from adapters.demo.orthanc import OrthancServer, find_program
from adapters.simulator import scanner
from pipeline.domain import FINDINGS
from pipeline.messages import load_messages
from pipeline.rules import OWN_MODEL_NAME
from tests.builders import browser, ohif, peers
from tests.builders.installation import Installation, free_port, wait_for

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.viewers

PLUGINS = Path("/usr/share/orthanc/plugins")
PICTURES = Path(os.environ.get("VIEWER_PICTURES", Path(__file__).parents[2] / ".cache" / "viewers"))
"""Where the screenshots of a run stay: those of `make viewer-pictures` are in the documentation."""
REFERENCE_STUDIES = int(os.environ.get("VIEWER_STUDIES", "12"))
SEED = 5
SIZE = (256, 256)
"""Of all films: a rank compares films of one kind."""
PATIENCE_MS = 60_000
COUNT_LIT = """() => {
    const canvas = document.querySelector('.cornerstone-canvas, .viewport-element canvas, canvas');
    if (!canvas || !canvas.width) return 0;
    const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
    let lit = 0;
    for (let i = 0; i < data.length; i += 400) lit += data[i] + data[i + 1] + data[i + 2] > 60;
    return lit;
}"""
"""Every hundredth pixel of the first canvas that is not black."""


@dataclass(frozen=True)
class ReportedStudy:
    """A study in Orthanc with the film and radclipd's objects."""

    orthanc: OrthancServer
    uid: str
    objects: dict[str, Dataset]  # SeriesDescription -> instance, of radclipd

    def series(self, shows: str) -> Dataset:
        """Return the object with this series description, without what follows " - "."""
        (found,) = (one for name, one in self.objects.items() if name.split(" - ")[0] == shows)
        return found


def examine(number: int, findings: Mapping[str, float] | None = None) -> bytes:
    patient = scanner.draw_patient(number, seed=SEED)
    examination = scanner.examine_patient(patient, [scanner.Technique()], seed=SEED, findings=findings, size=SIZE)
    return examination.instances[0].content


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReportedStudy]:
    """A study that travelled Orthanc -> daemon -> Orthanc, with the demo encoder and a reference distribution of the hospital."""
    if find_program() is None or not (PLUGINS / "libOrthancWebViewer.so").exists():
        peers.absent("Orthanc or its viewer is not installed (Debian packages orthanc, orthanc-dicomweb, orthanc-webviewer)")
    folder, port = tmp_path_factory.mktemp("viewers"), free_port()
    plugins = {"Plugins": [str(PLUGINS)], "DicomWeb": {"Enable": True, "Root": "/dicom-web/"}}
    with OrthancServer(folder / "orthanc", radclipd_port=port, overrides=plugins) as orthanc:
        place = Installation(
            folder,
            listener={"port": port},
            archive={"port": orthanc.dicom_port, "ae_title": orthanc.ae_title},
            decision={"min_reference_studies": REFERENCE_STUDIES},
            report={"visible": ["text", "card"]},
        )
        place.run("db", "upgrade")
        place.run("model", "demo")
        with place.running():
            uid = _report_study(orthanc, place)
        yield ReportedStudy(orthanc, uid, _fetch_own_objects(orthanc, uid))


def _report_study(orthanc: OrthancServer, place: Installation) -> str:
    """Fill the reference distribution, then let one film with findings be reported; return its study."""
    for number in range(REFERENCE_STUDIES):
        orthanc.upload(examine(number, {FINDINGS[number % len(FINDINGS)]: 0.8} if number % 2 else None))
    made = "select 1 from v_references"
    wait_for(lambda: place.rows(made), 240, place.read_log)
    film = examine(999, {"Effusion": 0.6})
    uid = str(dcmread(BytesIO(film), stop_before_pixels=True).StudyInstanceUID)
    orthanc.upload(film)
    reported = f"select 1 from v_studies where study_instance_uid = '{uid}' and state = 'reported'"
    wait_for(lambda: place.rows(reported), 240, place.read_log)
    return uid


def _fetch_own_objects(orthanc: OrthancServer, uid: str) -> dict[str, Dataset]:
    found = [dcmread(BytesIO(orthanc.download(instance))) for instance in orthanc.find_instances(uid)]
    return {str(one.SeriesDescription): one for one in found if one.get("ManufacturerModelName") == OWN_MODEL_NAME}


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser.chromium() as running:
        yield running


@pytest.fixture(scope="module")
def ohif_page(study: ReportedStudy, chromium: Browser) -> Iterator[tuple[Page, list[str]]]:
    """OHIF with the study open, and the errors of its page."""
    with ohif.serving(study.orthanc.url) as url:
        page = chromium.new_context(viewport={"width": 1500, "height": 860}).new_page()
        errors = browser.watch_errors(page)
        page.goto(f"{url}/viewer?StudyInstanceUIDs={study.uid}", wait_until="commit")
        page.locator(f'[data-cy^="study-browser-thumbnail"] >> nth={len(study.objects)}').wait_for(timeout=2 * PATIENCE_MS)
        page.add_style_tag(content=".shepherd-element, .shepherd-modal-overlay-container { display: none !important }")
        yield page, errors
        page.close()


def show_in_ohif(page: Page, shown: Dataset) -> None:
    page.locator(f'[data-cy^="study-browser-thumbnail"][data-series="{shown.SeriesNumber}"]').first.dblclick()


def keep_picture(page: Page, name: str) -> None:
    PICTURES.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=PICTURES / f"{name}.png")


def wait_for_picture(page: Page) -> None:
    """Wait until a canvas shows something that is not black."""
    page.wait_for_function(f"({COUNT_LIT})() > 50", timeout=PATIENCE_MS)


def wait_for_words(page: Page, words: str) -> str:
    """Wait until the viewport shows these words; return all of its words."""
    viewport = page.locator('[data-cy="viewport-pane"]').first
    viewport.get_by_text(words).first.wait_for(timeout=PATIENCE_MS)
    return viewport.inner_text()


def test_the_archive_has_three_objects_beside_the_film(study: ReportedStudy) -> None:
    shown = sorted(name.split(" - ")[0] for name in study.objects)
    assert shown == ["AI chest findings", "AI chest findings, card", "AI chest findings, text"]


def test_ohif_shows_the_film_first(ohif_page: tuple[Page, list[str]]) -> None:
    page, errors = ohif_page
    wait_for_picture(page)
    keep_picture(page, "ohif-film")
    assert errors == []


@pytest.mark.parametrize(("shows", "picture"), [("AI chest findings, text", "ohif-text"), ("AI chest findings", "ohif-sr")])
def test_ohif_shows_the_words_of_the_reports(
    shows: str, picture: str, study: ReportedStudy, ohif_page: tuple[Page, list[str]]
) -> None:
    page, errors = ohif_page
    errors.clear()
    show_in_ohif(page, study.series(shows))
    words = wait_for_words(page, "Research use only.")
    keep_picture(page, picture)
    names = [load_messages()(f"finding.{finding}") for finding in FINDINGS]
    assert [name for name in names if name not in words] == []
    assert "demo model" in words
    assert "operating point" in words
    assert errors == []


def test_ohif_shows_the_card(study: ReportedStudy, ohif_page: tuple[Page, list[str]]) -> None:
    page, errors = ohif_page
    errors.clear()
    show_in_ohif(page, study.series("AI chest findings, card"))
    page.locator('[data-cy="viewport-pane"]').get_by_text("AI chest findings, card").first.wait_for(timeout=PATIENCE_MS)
    wait_for_picture(page)
    keep_picture(page, "ohif-card")
    assert errors == []


@pytest.mark.parametrize(("modality", "picture"), [("DX", "orthanc-film"), ("OT", "orthanc-card")])
def test_orthancs_web_viewer_shows_film_and_card(modality: str, picture: str, study: ReportedStudy, chromium: Browser) -> None:
    """It shows images only: for an SR, of whatever class and maker, it answers 500."""
    (instance,) = study.orthanc.find_instances(study.uid, modality)
    series = study.orthanc.get(f"/instances/{instance}/series")["ID"]
    page = chromium.new_context(viewport={"width": 1000, "height": 700}).new_page()
    errors = browser.watch_errors(page)
    page.goto(f"{study.orthanc.url}/web-viewer/app/viewer.html?series={series}")
    wait_for_picture(page)
    keep_picture(page, picture)
    assert errors == []
    page.close()
