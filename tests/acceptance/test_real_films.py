"""Real radiographs through the real daemon; and the same daemon on PostgreSQL with several workers."""

from __future__ import annotations

import urllib.request
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset
from pynetdicom import AE, build_context

from adapters.dicom.image import part10
from tests.builders import documents, peers
from tests.builders.dicom_files import dx
from tests.builders.installation import Installation, free_port, reports_of, wait_for
from tests.builders.pgbouncer import pgbouncer
from tests.builders.postgres import Cluster
from tests.builders.reception import with_meta

FILMS = [
    ("CR-MONO1-10-chest_nometa.dcm", "reported"),
    ("chrKoreanMulti.dcm", "settled"),  # somebody has removed its pixel data: its job is quarantined
    ("siim_nih_jpegbaseline_1024.dcm", "reported"),
    ("nih_google_implicit_1024.dcm", "reported"),
    ("CR-ModalityLUT_jpegll_notchest.dcm", "ignored"),  # says no body part, and its description speaks of teeth
]


def film_of(name: str) -> FileDataset:
    body, syntax = part10.split_file(peers.shared(f"dicom/{name}").read_bytes())
    header = part10.read_header(body, syntax)
    return dcmread(
        BytesIO(
            part10.file_bytes(
                body, sop_class_uid=header.sop_class_uid, sop_instance_uid=header.sop_instance_uid, transfer_syntax_uid=syntax
            )
        )
    )


def send(place: Installation, film: Dataset) -> int:
    context = build_context(film.SOPClassUID, film.file_meta.TransferSyntaxUID)
    association = AE("ORTHANC").associate("127.0.0.1", place.port, contexts=[context], ae_title="RADCLIPD")
    status = int(association.send_c_store(film).Status)
    association.release()
    return status


def test_real_films_of_every_kind_are_reported(tmp_path: Path, template: Installation) -> None:
    films = [film_of(name) for name, _ in FILMS]
    place = Installation(tmp_path)
    place.copy_of(template)
    with place.archive(), place.running():
        assert [send(place, film) for film in films] == [0] * len(films)
        finished = (
            "select 1 from v_studies where state in ('reported', 'ignored')"
            " union all select 1 from v_jobs where state = 'quarantined'"
        )
        wait_for(lambda: len(place.rows(finished)) == len({film.StudyInstanceUID for film in films}), 90, place.read_log)
        transcoded = film_of("crmono1_10bit_jpegls.dcm")  # the first film's UID and pixels in another transfer syntax
        assert transcoded.SOPInstanceUID == films[0].SOPInstanceUID
        assert send(place, transcoded) == 0
        altered = film_of(FILMS[0][0])
        altered.PixelData = altered.PixelData[::-1]
        assert send(place, altered) == 0xC001
    states = {row["study_instance_uid"]: row["state"] for row in place.rows("select * from v_studies")}
    assert {name: states[film.StudyInstanceUID] for (name, _), film in zip(FILMS, films, strict=True)} == dict(FILMS)
    (quarantined,) = place.rows("select error from v_jobs where state = 'quarantined'")
    assert "no pixel data" in quarantined["error"]
    assert all(str(film.PatientName) not in place.read_log() for film in films if len(str(film.PatientName)) > 3)


@pytest.mark.postgres
def test_several_workers_share_one_postgresql_database(tmp_path: Path, cluster: Cluster) -> None:
    place = Installation(tmp_path, cluster.url(cluster.database()))
    place.set_up()
    films = [dx() for _ in range(10)]
    with place.archive() as archive, place.running():
        others = [place.start("work", "score"), place.start("work", "report")]
        place.forward(archive, *films)
        wait_for(lambda: all(reports_of(archive, film.StudyInstanceUID) for film in films), 90, place.read_log)
        for worker in others:
            worker.terminate()
            assert worker.wait(30) == 0
    assert len(place.rows("select * from v_predictions")) == 14 * len(films)
    assert {row["attempts"] for row in place.rows("select attempts from v_jobs")} == {1}
    assert {row["n"] for row in place.rows("select count(*) as n from v_reports group by study_instance_uid")} == {1}


@pytest.mark.postgres
def test_the_whole_daemon_works_behind_a_pooler(tmp_path: Path, cluster: Cluster) -> None:
    """Every role over two server connections of pgbouncer in transaction mode: arrivals, scores, labels, reports, metrics."""
    with pgbouncer(cluster, cluster.database()) as url:
        place = Installation(tmp_path, url, metrics={"enabled": True, "port": (metrics := free_port())})
        place.set_up()
        films = [dx() for _ in range(4)]
        with place.archive() as archive, place.running():
            place.forward(archive, *films)
            wait_for(lambda: all(reports_of(archive, film.StudyInstanceUID) for film in films), 90, place.read_log)
            found = documents.code(documents.FINDING, documents.PNEUMOTHORAX)
            reading = documents.report(*documents.person(), found, StudyInstanceUID=films[0].StudyInstanceUID)
            assert send(place, with_meta(reading)) == 0
            wait_for(lambda: place.rows("select 1 from v_labels"), 30, place.read_log)
            place.run("labels", "add", films[1].StudyInstanceUID, "Mass", "--reader", "alice")
            with urllib.request.urlopen(f"http://127.0.0.1:{metrics}/metrics", timeout=10) as answer:
                assert b'radclipd_studies{state="reported"} 4' in answer.read()
        assert len(place.rows("select * from v_labels")) == 2
        assert len(place.rows("select * from v_predictions")) == 14 * len(films)
        assert {row["attempts"] for row in place.rows("select attempts from v_jobs")} == {1}
        assert {row["n"] for row in place.rows("select count(*) as n from v_reports group by study_instance_uid")} == {1}
    assert '"level": "error"' not in place.read_log()
