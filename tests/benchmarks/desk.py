"""Speed and pictures of the desk: `python -m tests.benchmarks.desk [--films 20] [--pictures FOLDER] [--json]`.

Simulated films of 2048 x 2500 pixels, served by `radclipd web` and read by keys in Debian's Chromium on this host:

* `first_page_bytes`: everything that the labelling page loads, without the films;
* `first_film_seconds`: from the log-in, its check of the password among it, to the first film on the screen, nothing cached;
* `first_film_parts`: until the page had come, its script ran, the film had come, all from the same moment;
* `prefetched_first_film_seconds`: the same when the page is loaded again, with the film in the server's memory;
* `next_film_seconds`: from the last key (Enter) to the next film on the screen, prefetched; median and p95;
* `axe`: serious and critical faults of each page.

Ratios are of the targets (1 s, 0.2 s) to what was measured: above 1 holds. With `--pictures` a picture of every page is written.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
from PIL import Image as PillowImage
from pydicom import dcmread
from pydicom.uid import generate_uid

from adapters.catalog import schema
from adapters.simulator.scanner import site_examinations
from pipeline.domain import JobKind, UserRole
from tests.benchmarks.output import format_result, prints_result_alone
from tests.builders.browser import chromium
from tests.builders.desk import PASSWORD, Desk
from tests.builders.desk_pages import LAPTOP, find_axe_faults, log_in, opened_page
from tests.builders.installation import Installation, free_port, wait_for

if TYPE_CHECKING:
    from playwright.sync_api import Page

ROWS, COLUMNS = 2500, 2048
DISTINCT = 4
"""Films that are simulated; the others repeat their pixels."""
FIRST_FILM_SECONDS, NEXT_FILM_SECONDS = 1.0, 0.2
"""Targets."""
GREYS = 128
"""Of a film in a picture; as many colours beside them."""
READER, ADMINISTRATOR = "dr.alice", "engineer"
BYTES = (
    "performance.getEntriesByType('resource').filter(e => !e.name.includes('/films')).reduce((sum, e) => sum + e.transferSize, 0)"
)
FIRST_FILM = """() => {
  const film = performance.getEntriesByType('resource').find(e => e.name.includes('/films'));
  const [page] = performance.getEntriesByType('navigation'), [shown] = performance.getEntriesByName('next film');
  const moments = { page: page.responseEnd, script: shown.startTime, asked: film.startTime, answered: film.responseStart,
    received: film.responseEnd, shown: shown.startTime + shown.duration };
  return Object.fromEntries(Object.entries(moments).map(([name, moment]) => [name, (moment - page.startTime) / 1000]));
}"""
SCREENS = {"": LAPTOP, "-portrait": (1080, 1920)}
PAGES = ("label", "studies", "readers", "operations", "model")
DURATIONS = "performance.getEntriesByName('next film').map(e => e.duration / 1000)"


@prints_result_alone
def main() -> str:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--films", type=int, default=20)
    parser.add_argument("--pictures", type=Path)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    return format_result(measure(options.films, options.pictures), as_json=options.json)


def measure(films: int, pictures: Path | None) -> dict[str, Any]:
    """Return bytes, seconds and ratios; write the pictures where a folder is given."""
    with tempfile.TemporaryDirectory() as folder, serve_desk(Path(folder), films + 4) as (address, studies):
        with chromium() as browser, opened_page(browser) as page:
            page.goto(f"{address}/log-in")
            log_in(page, READER, PASSWORD)
            wait_for_films(page, 1)
            size, parts = page.evaluate(BYTES), page.evaluate(FIRST_FILM)
            page.reload()
            wait_for_films(page, 1)
            again = page.evaluate(FIRST_FILM)["shown"]
            for number in range(films):
                page.wait_for_timeout(700)  # a reader looks at a film for longer; meanwhile the next ones come
                page.keyboard.press("m" if number % 4 == 0 else "u")
                page.keyboard.press("Enter")
                wait_for_films(page, number + 2)
            _, *following = page.evaluate(DURATIONS)
            faults = count_faults(page, address, studies[0])
        if pictures is not None:
            for size_name, screen in SCREENS.items():
                with chromium() as browser, opened_page(browser, size=screen) as page:
                    take_pictures(page, address, studies[0], pictures, suffix=size_name)
    median, p95 = statistics.median(following), statistics.quantiles(following, n=20)[-1]
    return {
        "first_page_bytes": size,
        "first_film_seconds": parts["shown"],
        "first_film_parts": parts,
        "prefetched_first_film_seconds": again,
        "axe": faults,
        "next_film_seconds": {"median": median, "p95": p95},
        "target_first_film": FIRST_FILM_SECONDS / parts["shown"],
        "target_next_film": NEXT_FILM_SECONDS / p95,
    }


def count_faults(page: Page, address: str, study: str) -> dict[str, int]:
    """Return page -> number of axe's serious and critical faults."""
    faults = {}
    for path in (*PAGES, f"studies/{study}"):
        page.goto(f"{address}/{path}")
        page.wait_for_load_state("load")
        faults[path.split("/")[0] if "/" not in path else "study"] = len(find_axe_faults(page))
    return faults


def wait_for_films(page: Page, count: int) -> None:
    page.wait_for_function("count => performance.getEntriesByName('next film').length >= count", arg=count, timeout=60_000)


@contextmanager
def serve_desk(folder: Path, films: int) -> Iterator[tuple[str, list[str]]]:
    """Serve films of simulated patients by `radclipd web`; give its address and the studies."""
    port = free_port()
    web = {"port": port, "directory": str(folder / "web")}
    installation = Installation(folder, web=web)
    schema.upgrade(installation.url)
    desk = Desk(installation.url, folder / "images")
    desk.add_version(notice="demo model, phantoms only")
    studies = [desk.add_file(content, scores=scores) for content, scores in take_films(films)]
    desk.add_user(READER)
    desk.add_user(ADMINISTRATOR, UserRole.ADMINISTRATOR)
    with desk.catalog.begin() as tx:
        tx.jobs.put(JobKind.SCORE, studies[-1])
        [job] = tx.jobs.claim([JobKind.SCORE], worker="scorer", lease_seconds=60)
        tx.jobs.quarantine(job, error="pixel data has 1 of 10240000 bytes: it is truncated")
    desk.close()
    process = installation.start("web")
    try:
        wait_for(lambda: answers(f"http://127.0.0.1:{port}/health/ready"), seconds=120, explain=installation.log.read_text)
        yield f"http://127.0.0.1:{port}", studies
    finally:
        process.terminate()
        process.wait(timeout=30)


def answers(address: str) -> bool:
    try:
        return httpx2.get(address).status_code == 200
    except httpx2.TransportError:
        return False


def take_films(count: int) -> Iterator[tuple[bytes, dict[str, float]]]:
    """Yield DICOM files and scores near the truth: DISTINCT films in turn, each time as another patient's."""
    examinations = site_examinations("north", 2 * DISTINCT, seed=5, size=(ROWS, COLUMNS), workers=2)
    instances = [each.instances[0] for each in examinations if each.instances[0].technique.view in ("PA", "AP")][:DISTINCT]
    for number in range(count):
        instance = instances[number % len(instances)]
        film = dcmread(BytesIO(instance.content))
        film.StudyInstanceUID, film.SeriesInstanceUID, film.SOPInstanceUID = generate_uid(), generate_uid(), generate_uid()
        film.file_meta.MediaStorageSOPInstanceUID = film.SOPInstanceUID
        film.PatientID, film.AccessionNumber = f"PHANTOM-{number:03d}", f"PH{number:06d}"
        stream = BytesIO()
        film.save_as(stream)
        yield stream.getvalue(), {finding: 0.55 + 0.4 * extent for finding, extent in instance.findings.items()}


def reduce_colours(picture: PillowImage.Image) -> PillowImage.Image:
    """Return the picture with a palette of even greys, for films, and of its own colours."""
    greys = [grey for step in range(GREYS) for grey in [round(step * 255 / (GREYS - 1))] * 3]
    colours = picture.quantize(GREYS, method=PillowImage.Quantize.FASTOCTREE).getpalette() or []
    palette = PillowImage.new("P", (1, 1))
    palette.putpalette((greys + colours)[: 3 * 256])
    return picture.quantize(palette=palette, dither=PillowImage.Dither.NONE)


def take_pictures(page: Page, address: str, study: str, folder: Path, *, suffix: str) -> None:
    """Write a PNG of every page."""
    folder.mkdir(parents=True, exist_ok=True)
    page.goto(f"{address}/log-in")
    log_in(page, ADMINISTRATOR, PASSWORD)
    for name, path in (
        ("label", "/label"),
        ("studies", "/studies"),
        ("study", f"/studies/{study}"),
        ("readers", "/readers"),
        ("operations", "/operations"),
        ("model", "/model"),
    ):
        page.goto(address + path)
        page.wait_for_timeout(2500)
        if name == "label":  # one film is read, the next one is being read
            for key in ("x", "Enter", "m", "Shift+L"):
                page.keyboard.press(key)
                page.wait_for_timeout(1500)
        with PillowImage.open(BytesIO(page.screenshot())) as picture:
            reduce_colours(picture.convert("RGB")).save(folder / f"desk-{name}{suffix}.png", optimize=True)


if __name__ == "__main__":
    main()
