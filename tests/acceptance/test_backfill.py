"""`radclipd backfill` by the command line: stopped by Ctrl-C, killed, restarted, beside a running daemon."""

from __future__ import annotations

import json
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from adapters.catalog import query
from adapters.cli import app
from adapters.demo.loopback import free_ports
from adapters.demo.orthanc import OrthancServer, find_program
from adapters.storage.image_store import MARKER_FILE
from tests.builders import peers
from tests.builders.dicom_files import dx, file_of
from tests.builders.installation import Installation, kill, wait_for

FILMS = 24
CUT = 75
"""Exit code: try again."""


@pytest.fixture
def films(tmp_path: Path) -> Path:
    root = tmp_path / "archive"
    for number in range(FILMS):
        folder = root / f"2025-03-{number % 4 + 1:02}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.dcm").write_bytes(file_of(dx(StudyDate=f"202503{number % 4 + 1:02}")))
    return root


@pytest.fixture
def place(tmp_path: Path, template: Installation) -> Iterator[Installation]:
    made = Installation(tmp_path)
    made.copy_of(template)
    yield made


def received(place: Installation) -> int:
    """Query in this process: a new process would be too slow."""
    ((n,),) = query.run(place.url, "SELECT count(*) FROM v_instances")[1]
    return int(n)


@pytest.mark.parametrize("way", ["ctrl-c", "kill"])
def test_an_interrupted_backfill_resumes(way: str, place: Installation, films: Path) -> None:
    verb = ("backfill", "--folder", str(films))
    running = place.start(*verb, "--per-minute", "300")
    wait_for(lambda: received(place) >= 5, 30, place.read_log)
    begun = time.monotonic()
    running.send_signal(signal.SIGINT) if way == "ctrl-c" else kill(running.pid)
    code = running.wait(20)
    if way == "ctrl-c":
        assert code == CUT
        assert time.monotonic() - begun < 5
        assert "stop requested" in place.read_log()
    before = received(place)
    assert 5 <= before < FILMS
    summary = json.loads(place.run(*verb, "--json").stdout)
    assert received(place) == FILMS
    assert summary["instances"] == FILMS - before
    assert summary["instances"] + summary["duplicates"] <= FILMS
    assert json.loads(place.run(*verb, "--json").stdout)["instances"] == 0
    (row,) = json.loads(place.run("backfill", "status", "--json").stdout)
    assert (row["source"], row["units_done"], row["units_failed"]) == (f"folder {films}", 4, 0)


def test_the_daemon_scores_backfilled_studies_without_reports(place: Installation, films: Path) -> None:
    with place.archive() as archive, place.running():
        place.run("backfill", "--folder", str(films))
        place.forward(archive, dx())
        scored = "SELECT count(DISTINCT study_instance_uid) AS n FROM v_predictions"
        wait_for(lambda: place.rows(scored)[0]["n"] == FILMS + 1, 60, place.read_log)
        wait_for(lambda: place.rows("SELECT state FROM v_reports") == [{"state": "sent"}], 30, place.read_log)
        wait_for(lambda: place.rows("SELECT state FROM v_visible_objects") == [{"state": "sent"}], 30, place.read_log)
        states = place.rows("SELECT state, count(*) AS n FROM v_studies GROUP BY state ORDER BY state")
        assert states == [{"state": "reported", "n": 1}, {"state": "scored", "n": FILMS}]


def test_refused_instances_are_listed_on_request(place: Installation, films: Path, tmp_path: Path) -> None:
    (films / "broken.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\xff" * 40)
    place.run("backfill", "--folder", str(films), "--from", "2025-03-02", "--to", "2025-03-02", "--refused", str(tmp_path / "list"))
    assert received(place) == FILMS // 4
    path, why = (tmp_path / "list").read_text().strip().split("\t")
    assert path == str(films / "broken.dcm")
    assert why.endswith("it is none")


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--folder", "/tmp", "--orthanc", "http://h"),
        ("--orthanc", "http://h"),
        ("--orthanc", "http://h", "--from", "2025-02-02", "--to", "2025-01-01"),
        ("--folder", "/tmp", "--move-to", "US"),
        ("--query-retrieve", "PACS", "--from", "2025-01-01"),
        ("--folder", "/tmp", "--bytes-per-second", "much"),
    ],
)
def test_contradictory_options_are_usage_errors(arguments: tuple[str, ...], place: Installation) -> None:
    done = CliRunner().invoke(app, ["--config", str(place.config), "backfill", *arguments])
    assert done.exit_code == 2


@pytest.mark.orthanc
def test_what_came_since_the_backup_is_fetched_and_reported_after_a_restore(tmp_path: Path, template: Installation) -> None:
    """The commands of the guide, with an archive that still holds the reports of before."""
    if find_program() is None:
        peers.absent("Orthanc is not installed (Debian package orthanc)")
    (port,) = free_ports(1)
    with OrthancServer(tmp_path / "orthanc", radclipd_port=port, forward=False) as orthanc:
        place = Installation(tmp_path, archive={"ae_title": "ORTHANC", "port": orthanc.dicom_port})
        place.copy_of(template)
        fetch = ("backfill", "--orthanc", orthanc.url, "--from", "2025-03-01", "--to", "2025-03-31", "--again")
        sent = "SELECT sop_instance_uid FROM v_reports WHERE state = 'sent' ORDER BY 1"
        reporting = {"RADCLIPD_BACKFILL__REPORTS": "all"}

        def read_sent() -> list[tuple[Any, ...]]:
            return query.run(place.url, sent)[1]

        def take_in(count: int) -> list[tuple[Any, ...]]:
            with place.running(environment=reporting):
                place.run(*fetch)
                wait_for(lambda: len(read_sent()) == count, 120, place.read_log)
            return read_sent()

        orthanc.upload(file_of(dx(StudyDate="20250310")))
        take_in(1)
        (tmp_path / "backup").mkdir()
        backup = [path for path in tmp_path.glob("catalog.db*")]
        for path in backup:
            shutil.copy(path, tmp_path / "backup")
        for _ in range(2):
            orthanc.upload(file_of(dx(StudyDate="20250322")))
        before = take_in(3)

        shutil.rmtree(tmp_path / "images")
        (tmp_path / "images").mkdir()
        (tmp_path / "images" / MARKER_FILE).touch()
        for path in tmp_path.glob("catalog.db*"):
            path.unlink()
        for path in (tmp_path / "backup").iterdir():
            shutil.copy(path, tmp_path)
        assert len(read_sent()) == 1
        assert take_in(3) == before, "the same reports, under the same UIDs"
        assert orthanc.count_instances() == 9  # each of three studies: a film, an SR and a text
