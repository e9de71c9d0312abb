"""Real radiographs through the real daemon; and the same daemon on PostgreSQL with several workers."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import FileDataset
from pynetdicom import AE, build_context

from adapters.dicom.image import part10
from tests.builders import peers
from tests.builders.dicom_files import dx
from tests.builders.installation import Installation, reports_of, wait_for
from tests.builders.postgres import Cluster

FILMS = [
    ("CR-MONO1-10-chest_nometa.dcm", "reported"),
    ("chrKoreanMulti.dcm", "settled"),  # somebody has removed its pixel data: its job is quarantined
    ("siim_nih_jpegbaseline_1024.dcm", "reported"),
    ("nih_google_implicit_1024.dcm", "reported"),
    ("CR-ModalityLUT_jpegll_notchest.dcm", "reported"),  # says neither body part nor view: scored by the default policy
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


def send(place: Installation, film: FileDataset) -> int:
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
        finished = "select 1 from v_studies where state = 'reported' union all select 1 from v_jobs where state = 'quarantined'"
        wait_for(lambda: len(place.rows(finished)) == len({film.StudyInstanceUID for film in films}), 90, place.read_log)
        transcoded = film_of("crmono1_10bit_jpegls.dcm")  # the first film's UID with other bytes
        assert send(place, transcoded) == (0xC001 if transcoded.SOPInstanceUID == films[0].SOPInstanceUID else 0)
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
