"""The real daemon by the real CLI: films in, SRs out; a fault affects one study and no other."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from pydicom import dcmread
from pynetdicom import AE, build_context

from adapters.demo.embedded_archive import EmbeddedArchive
from tests.builders.dicom_files import dx, file_of
from tests.builders.installation import Installation, free_port, kill, reports_of, wait_for


@pytest.fixture
def place(tmp_path: Path, template: Installation) -> Installation:
    installation = Installation(tmp_path)
    installation.copy_of(template)
    return installation


@pytest.fixture
def archive(place: Installation) -> Iterator[EmbeddedArchive]:
    with place.archive() as running:
        yield running


def test_a_film_results_in_a_report_and_query_rows(place: Installation, archive: EmbeddedArchive) -> None:
    frontal, lateral = dx(), dx(ViewPosition="LL")
    with place.running():
        place.forward(archive, frontal, lateral)
        wait_for(lambda: reports_of(archive, frontal.StudyInstanceUID), 60, place.read_log)
        wait_for(lambda: len(place.rows("select 1 from v_studies where state in ('reported', 'ignored')")) == 2, 30, place.read_log)
    (report,) = reports_of(archive, frontal.StudyInstanceUID)
    assert dcmread(report).PatientID == "T-1"
    states = {row["study_instance_uid"]: (row["state"], row["reason"]) for row in place.rows("select * from v_studies")}
    assert states == {frontal.StudyInstanceUID: ("reported", ""), lateral.StudyInstanceUID: ("ignored", "lateral view (1)")}
    (wide,) = place.rows("select * from v_findings_wide")
    assert wide["notice"] == "UNTRAINED"
    assert wide["pleural_thickening"] is None  # not assessed: one study is no reference for a rank
    (text,) = place.rows("select sop_instance_uid, kind, state from v_visible_objects")
    assert (text["kind"], text["state"]) == ("text", "sent")
    assert "Pleural thickening" in place.run("reports", "show", text["sop_instance_uid"]).stdout
    shown = place.run("reports", "show", report.stem).stdout
    assert "Research use only" in shown
    assert "UNTRAINED" in shown
    assert "PHANTOM" not in place.read_log() + shown
    assert "T-1" not in place.read_log() + shown


def test_in_shadow_mode_nothing_leaves_until_somebody_asks(place: Installation, archive: EmbeddedArchive) -> None:
    film = dx()
    kept = "select withheld from v_reports where state = 'built'"
    with place.running(environment={"RADCLIPD_REPORT__DELIVER": "shadow"}):
        place.forward(archive, film)
        wait_for(lambda: place.rows(kept) == [{"withheld": "shadow"}], 60, place.read_log)
    summary = place.run("reports", "shadow").stdout
    assert "studies  1 received, 1 scored, 0 of them in the silent share" in summary
    assert "reports  1 would have been sent, 1 text; 0 sent; 0 silent" in summary
    assert reports_of(archive, film.StudyInstanceUID) == []
    with place.running():
        assert place.run("reports", "resend", "--since", "2020-01-01").stdout == "1 reports will be sent\n"
        wait_for(lambda: place.rows("select 1 from v_studies where state = 'reported'"), 60, place.read_log)
    (report,) = reports_of(archive, film.StudyInstanceUID)
    assert dcmread(report).PatientID == "T-1"


def test_a_late_film_causes_a_second_report_that_names_the_first(place: Installation, archive: EmbeddedArchive) -> None:
    film = dx()
    late = dx(StudyInstanceUID=film.StudyInstanceUID, InstanceNumber=2)
    with place.running():
        place.forward(archive, film)
        wait_for(lambda: len(reports_of(archive, film.StudyInstanceUID)) == 1, 60, place.read_log)
        place.forward(archive, late)
        wait_for(lambda: len(reports_of(archive, film.StudyInstanceUID)) == 2, 60, place.read_log)
    first, second = sorted(map(dcmread, reports_of(archive, film.StudyInstanceUID)), key=lambda r: int(r.InstanceNumber))
    named = second.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
    assert named.ReferencedSOPInstanceUID == first.SOPInstanceUID
    assert len(place.rows("select * from v_predictions")) == 14


@pytest.mark.parametrize("study", [{"ask_archive": True}, {"settle_on_release": True}], ids=["count", "release"])
def test_a_study_settles_on_association_release_before_the_stable_age(
    tmp_path: Path, template: Installation, study: dict[str, bool]
) -> None:
    place = Installation(tmp_path, study={"stable_age_seconds": 3600} | study)
    place.copy_of(template)
    film = dx()
    with place.archive() as archive, place.running():
        place.forward(archive, film)
        wait_for(lambda: reports_of(archive, film.StudyInstanceUID), 60, place.read_log)


def test_invalid_films_are_quarantined_and_the_next_film_is_reported(place: Installation, archive: EmbeddedArchive) -> None:
    truncated, absurd, good = dx(), dx(Rows=60000, Columns=60000), dx()
    truncated.PixelData = truncated.PixelData[:50]
    empty = dx()
    del empty.PixelData
    with place.running():
        place.forward(archive, truncated, absurd, empty, good)
        wait_for(lambda: reports_of(archive, good.StudyInstanceUID), 60, place.read_log)
        wait_for(lambda: len(place.rows("select 1 from v_jobs where state = 'quarantined'")) == 3, 30, place.read_log)
    errors = " ".join(row["error"] for row in place.rows("select error from v_jobs where state = 'quarantined'"))
    assert "truncated" in errors
    assert "is no radiograph" in errors
    assert "no pixel data" in errors
    assert place.rows("select reason from v_studies where state = 'ignored'") == []
    listed = place.run("jobs", "list", "--state", "quarantined").stdout
    assert "quarantined" in listed
    assert "3 jobs queued again" in place.run("jobs", "retry", "--all").stdout


def test_reports_wait_while_the_archive_is_unreachable(place: Installation) -> None:
    films = [dx() for _ in range(3)]
    with place.running():
        with place.archive() as archive:
            for film in films:
                archive.store(file_of(film))
        elsewhere = AE("ORTHANC").associate(
            "127.0.0.1", place.port, contexts=[build_context(films[0].SOPClassUID, "1.2.840.10008.1.2.1")], ae_title="RADCLIPD"
        )
        for path in sorted((place.folder / "archive").glob("*.dcm")):
            assert elsewhere.send_c_store(dcmread(path)).Status == 0
        elsewhere.release()
        built = "select 1 from v_reports where state = 'built'"
        wait_for(lambda: len(place.rows(built)) == 3, 60, place.read_log)
        with place.archive() as back:
            wait_for(lambda: all(reports_of(back, f.StudyInstanceUID) for f in films), 60, place.read_log)
    assert {row["attempts"] for row in place.rows("select attempts from v_jobs where kind = 'send'")} == {1}


def test_a_killed_child_is_restarted_without_loss(place: Installation, archive: EmbeddedArchive) -> None:
    films = [dx() for _ in range(4)]
    with place.running() as daemon:
        place.forward(archive, *films)
        for child in children_of(daemon.pid):
            kill(child)
        wait_for(lambda: all(reports_of(archive, f.StudyInstanceUID) for f in films), 90, place.read_log)
    assert {len(reports_of(archive, film.StudyInstanceUID)) for film in films} == {1}
    assert len(place.rows("select * from v_predictions")) == 4 * 14


def test_a_daemon_killed_during_work_resumes_after_a_restart(place: Installation, archive: EmbeddedArchive) -> None:
    films = [dx() for _ in range(4)]
    daemon = place.start("run")
    wait_for(place.listens, 60, place.read_log)
    place.forward(archive, *films)
    children = children_of(daemon.pid)
    daemon.kill()
    daemon.wait(10)
    wait_for(lambda: not any(alive(child) for child in children), 10)
    with place.running():
        wait_for(lambda: all(reports_of(archive, f.StudyInstanceUID) for f in films), 90, place.read_log)
    assert {len(reports_of(archive, film.StudyInstanceUID)) for film in films} == {1}


def test_a_reload_applies_the_new_configuration_without_refusing_an_association(
    place: Installation, archive: EmbeddedArchive
) -> None:
    film = dx()
    with place.running() as daemon:
        place.config.write_text(place.config.read_text().replace("[report]\n", "[report]\nseries_number = 777\n"))
        daemon.send_signal(signal.SIGHUP)
        wait_for(lambda: place.read_log().count('"event": "listening"') == 2, 60, place.read_log)
        place.forward(archive, film)
        wait_for(lambda: reports_of(archive, film.StudyInstanceUID), 60, place.read_log)
    assert dcmread(reports_of(archive, film.StudyInstanceUID)[0]).SeriesNumber == 777


def test_without_weights_the_daemon_refuses_to_start_and_names_the_remedy(tmp_path: Path) -> None:
    bare = Installation(tmp_path)
    bare.run("db", "upgrade")
    for verb in (["run"], ["work", "score"]):
        done = bare.run(*verb, check=False)
        assert done.returncode == 78
        assert "no model version serves" in done.stderr
        assert "hint: radclipd model import" in done.stderr


def test_without_a_schema_the_error_names_the_command(tmp_path: Path) -> None:
    bare = Installation(tmp_path)
    done = bare.run("run", check=False)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (78, "hint: radclipd db upgrade")


def test_check_tests_every_part_and_reports_the_faults(place: Installation) -> None:
    with place.archive():
        result = place.run("check")
        said = [line.removeprefix("ok").strip() for line in result.stdout.splitlines()]
        parts = ["configuration", "image store", "disk", "catalog", "listener", "tls", "archive", "model", "activation cache"]
        parts += ["metrics", "audit repository", "authorization", "device"]
        assert [part for part, line in zip(parts, said, strict=True) if line.startswith(part)] == parts
    result = place.run("check", check=False)
    assert result.returncode == 1
    assert "FAIL archive" in result.stdout
    assert "archive.port" in result.stdout


def test_a_running_daemon_answers_scrapes(tmp_path: Path, template: Installation) -> None:
    port = free_port()
    place = Installation(tmp_path, metrics={"enabled": True, "port": port})
    place.copy_of(template)
    with place.archive() as archive, place.running():
        film = dx()
        place.forward(archive, film)
        wait_for(lambda: reports_of(archive, film.StudyInstanceUID), 60, place.read_log)
        wait_for(lambda: place.rows("select 1 from v_studies where state = 'reported'"), 30, place.read_log)
        page, checked = scrape(port), place.run("check").stdout
    assert f"radclipd answers as RADCLIPD on 127.0.0.1 port {place.port}" in checked  # our own daemon may have both ports
    assert f"http://127.0.0.1:{port}/metrics answers" in checked
    figures = {sample.name: sample.value for family in text_string_to_metric_families(page) for sample in family.samples}
    assert (figures["radclipd_catalog_up"], figures["radclipd_instances_received_total"]) == (1, 1)
    assert 'radclipd_studies{state="reported"} 1.0' in page
    assert 'radclipd_serving_version{notice="UNTRAINED"} 1.0' in page
    assert "PHANTOM" not in page
    assert "T-1" not in page


def scrape(port: int) -> str:
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
        f"http://127.0.0.1:{port}/metrics", timeout=10
    ) as answer:
        return str(answer.read().decode())


def test_an_unknown_configuration_key_is_one_error_line_with_the_nearest_key(place: Installation) -> None:
    place.config.write_text(place.config.read_text().replace("stable_age_seconds", "stable_aeg_seconds"))
    done = place.run("studies", check=False)
    first, hint = done.stderr.splitlines()
    assert done.returncode == 78
    assert "study.stable_aeg_seconds" in first
    assert "study.stable_age_seconds" in first + hint


def test_received_instances_are_stored_byte_for_byte(place: Installation, archive: EmbeddedArchive) -> None:
    film = dx()
    with place.running("listen"):
        place.forward(archive, film, film)
    (row,) = place.rows("select * from v_instances")
    stored = place.folder / "images" / row["file_key"]
    assert stored.read_bytes() == file_of(film)
    assert subprocess.run(["sha256sum", stored], capture_output=True, text=True, check=True).stdout.split()[0] == row["file_sha256"]
    assert film.SOPInstanceUID not in row["file_key"]


def children_of(pid: int) -> list[int]:
    """Process ids of the daemon's own children."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"


def test_listings_have_json_output(place: Installation) -> None:
    assert json.loads(place.run("jobs", "list", "--json").stdout) == []
    assert place.run("studies", "--csv").stdout.startswith("study_instance_uid,")
