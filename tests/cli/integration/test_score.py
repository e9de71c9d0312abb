"""`radclipd score`: the same words and numbers as the fast line, objects on disk, and bad files named one by one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
from pydicom import dcmread
from typer.testing import CliRunner, Result

from adapters.app.compose import Parts
from adapters.app.report_policies import decision_policy, report_policy
from adapters.app.workers import build_score_spec_and_cache_warming
from adapters.catalog.catalog import SqlCatalog
from adapters.cli import app
from adapters.config import sections
from adapters.ml import importer
from adapters.storage.image_store import FileImageStore
from adapters.storage.model_store import ModelStore
from pipeline import references, report, stops
from pipeline.domain import JobKind
from pipeline.work import WorkPolicy, work_once
from tests.builders import tiny
from tests.builders.dicom_files import dx, encoded, file_of, sr
from tests.builders.labelled_archive import reported_film

FILMS = 4


class Place:
    """Films that the daemon has scored with a reference distribution; the same films lie in a folder."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder, self.films, self.path = folder, folder / "images", folder / "radclipd.toml"
        self.path.write_text(
            f'[catalog]\nurl = "{url}"\n[storage]\ndirectory = "{self.films}"\nmin_free = "0 B"\n'
            f'[model]\ndirectory = "{folder / "models"}"\ndevice = "cpu"\n'
            '[score]\nthreads = 1\nbatch_size = 1\nprecision = "float32"\n'
            '[decision]\nmin_reference_studies = 3\n[activation_cache]\nenabled = false\n[report]\nvisible = ["text"]\n'
        )
        self.config = sections.load(self.path)
        self.catalog = SqlCatalog(url)
        store = ModelStore(folder / "models")
        base = importer.import_untrained_base(store, str(tiny.config_file(folder)), seed=0)
        importer.register_zero_shot(self.catalog, store, base, serve=True)
        images = FileImageStore(self.films)
        self.studies = [f"1.2.{number}" for number in range(FILMS)]
        for number in range(FILMS):
            reported_film(self.catalog, images, number, effusion=number % 2 == 0)
        with Parts(self.config) as parts:
            spec, _ = build_score_spec_and_cache_warming(parts)
            for _ in range(2):  # once for the scores, once for the ranks among them
                with self.catalog.begin() as tx:
                    for study in self.studies:
                        tx.jobs.put(JobKind.SCORE, study, {references.RERANK_KEY: True})
                while work_once(spec, catalog=self.catalog, worker="test", policy=WorkPolicy()):
                    pass
                references.make(catalog=self.catalog, policy=decision_policy(self.config), again=False)

    def tell(self, study: str) -> object:
        """Return what a report tells of a study, as JSON."""
        with self.catalog.read() as tx:
            told = report.tell_newest(tx, study, report_policy(self.config))
        assert told is not None
        return json.loads(json.dumps(asdict(told)))

    def score(self, *words: object) -> Result:
        return CliRunner().invoke(app, ["--config", str(self.path), "score", *map(str, words)])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, sqlite_template: Path) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("score")
    (folder / "catalog.db").write_bytes(sqlite_template.read_bytes())
    made = Place(folder, f"sqlite:///{folder / 'catalog.db'}")
    yield made
    made.catalog.dispose()


def test_a_folder_is_told_as_its_reports_are(place: Place) -> None:
    done = place.score(place.films, "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    told = {study["study_instance_uid"]: study for study in found["studies"]}
    assert (found["version"], found["notice"], sorted(told)) == (1, "UNTRAINED", place.studies)
    for study in place.studies:
        assert told[study]["statement"] == place.tell(study)
        assert told[study]["state"] == "scored"
    ranks = {one["percentile"] for study in found["studies"] for one in study["statement"]["findings"]}
    assert len(ranks) == FILMS  # the studies differ


def test_the_objects_are_reports_with_uids_of_their_own(place: Place) -> None:
    film = next(place.films.rglob("*.dcm"))
    out = place.folder / "out"
    for _ in range(2):
        done = place.score(film, "--sr", out)
        assert done.exit_code == 0, done.output
    objects = [dcmread(path) for path in out.glob("*.dcm")]
    source = dcmread(film)
    assert sorted(one.Modality for one in objects) == ["SR"] * 4  # two runs, each with an SR and a text report
    assert len({one.SOPInstanceUID for one in objects}) == 4
    assert {(one.StudyInstanceUID, one.PatientID, one.ManufacturerModelName) for one in objects} == {
        (source.StudyInstanceUID, source.PatientID, "radclipd")
    }
    named = next(one for one in objects if one.SOPClassUID.endswith("88.34")).CurrentRequestedProcedureEvidenceSequence
    assert source.SOPInstanceUID in str(named)


def test_bad_files_are_named_and_the_others_scored(place: Place, tmp_path: Path) -> None:
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    good, other = dx(), dx()
    other.SOPInstanceUID = good.SOPInstanceUID
    contents = {
        "good.dcm": file_of(good),
        "good again.dcm": file_of(good),
        "other.dcm": file_of(other),
        "note.txt": b"not DICOM",
        "cut.dcm": file_of(dx())[:-700],
        "bare.dcm": encoded(dx()),
        "report.dcm": file_of(sr()),
        "DICOMDIR": b"",
    }
    for name, content in contents.items():
        (below / name).write_bytes(content)
    done = place.score(tmp_path, tmp_path / "absent", "--json")
    assert done.exit_code == 1
    found = json.loads(done.stdout)
    assert {Path(one["file"]).name: one["reason"].split(":")[-1].strip() for one in found["faults"]} == {
        "absent": "cannot be read",
        "note.txt": "is no DICOM file",
        "bare.dcm": "is a data set without the file meta information of PS3.10",
        "other.dcm": f"is another instance with the SOP Instance UID of {below / 'good again.dcm'}",
        "cut.dcm": found["faults"][-1]["reason"].split(":")[-1].strip(),
    } | {"absent": "No such file or directory"}
    assert all(str(one["file"]) in done.stderr for one in found["faults"])
    assert sorted(study["state"] for study in found["studies"]) == ["ignored", "scored", "settled"]
    assert "structured report" in str(found["studies"])


def test_a_page_of_text_fits_80_columns(place: Place) -> None:
    lines = place.score(place.films).stdout.splitlines()
    assert max(map(len, lines)) <= 80
    text = " ".join(" ".join(lines).split())
    with place.catalog.read() as tx:
        told = report.tell_newest(tx, place.studies[0], report_policy(place.config))
    assert told is not None
    assert all(one.sentence in text for one in told.findings)  # wrapped, not cut
    assert sum("UNTRAINED" in line for line in lines) == FILMS


def test_stops_hold_for_files_too(place: Place) -> None:
    film = next(place.films.rglob("*.dcm"))
    stops.stop("Mass", reason="why", source="test", catalog=place.catalog)
    try:
        [study] = json.loads(place.score(film, "--json").stdout)["studies"]
        [mass] = [one for one in study["statement"]["findings"] if one["finding"] == "Mass"]
        assert (mass["decision"], mass["reason"]) == ("not assessed", "stopped")
        stops.stop("", reason="why", source="test", catalog=place.catalog)
        refused = place.score(film)
        assert "ReportingStopped" in repr(refused.exception)
    finally:
        for finding in ("Mass", ""):
            stops.resume(finding, source="test", catalog=place.catalog)
