"""The table of what studies really show, and films that find theirs in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from adapters.datasets import film_folder, nih, nih_to_dicom
from adapters.datasets.truth_table import TRUTH_FILE, known_findings, write_truth
from adapters.simulator import scanner
from adapters.simulator.truth import GroundTruth
from pipeline.errors import OutOfResources, PermanentError
from tests.builders import nih_folder

TRUTHS = {"1.2": GroundTruth("a", frozenset({"Mass", "Effusion"})), "1.3": GroundTruth("b", frozenset())}


def test_a_written_table_is_read_back(tmp_path: Path) -> None:
    write_truth(tmp_path / TRUTH_FILE, TRUTHS)
    assert (tmp_path / TRUTH_FILE).read_text().splitlines()[1] == "1.2,a,Effusion|Mass"
    assert known_findings(tmp_path) == {study: truth.findings for study, truth in TRUTHS.items()}


def test_no_table_gives_no_findings_and_an_unreadable_or_unwritable_table_is_an_error(tmp_path: Path) -> None:
    assert known_findings(tmp_path) == {}
    (tmp_path / TRUTH_FILE).write_text("StudyInstanceUID,Finding Labels\n1.2,Cough\n")
    with pytest.raises(PermanentError, match=r"line 2.*Cough"):
        known_findings(tmp_path)
    (tmp_path / TRUTH_FILE).write_text("Study\n1.2\n")
    with pytest.raises(PermanentError, match="cannot be read"):
        known_findings(tmp_path)
    with pytest.raises(OutOfResources, match="cannot write"):
        write_truth(tmp_path / "nowhere" / TRUTH_FILE, TRUTHS)


@pytest.mark.parametrize("table", [TRUTH_FILE, "labels.csv", None])
def test_findings_of_dicom_files_are_looked_up_by_study_or_by_file_name(table: str | None, tmp_path: Path) -> None:
    nih_to_dicom.convert(nih_folder.collection(tmp_path / "nih", 5, modes=nih_folder.MODES), tmp_path / "out")
    if table != TRUTH_FILE:
        (tmp_path / "out" / TRUTH_FILE).unlink()
    if table == "labels.csv":
        (tmp_path / "nih" / "Data_Entry_2017_v2020.csv").rename(tmp_path / "out" / table)
    studies, skipped = film_folder.read_film_folder(tmp_path / "out")
    assert [left.path.name for left in skipped] == [name for name in [table] if name == "labels.csv"]
    if table is None:
        assert [study.truth for study in studies] == [None] * 5
    else:
        assert [study.truth for study in studies] == [
            GroundTruth(f"NIH-{number:08d}", frozenset(nih_folder.shown(number, 5))) for number in range(1, 6)
        ]


def test_listed_pictures_and_phantoms_have_a_truth_and_unlisted_pictures_have_none(tmp_path: Path) -> None:
    folder = nih_folder.collection(tmp_path / "nih", 3)
    studies, _ = film_folder.read_film_folder(folder)
    assert [study.truth for study in studies] == [GroundTruth(f"{n:08d}", frozenset(nih_folder.shown(n, 3))) for n in range(1, 4)]
    (folder / "Data_Entry_2017_v2020.csv").unlink()
    assert nih.find_table(folder) is None
    assert [study.truth for study in film_folder.read_film_folder(folder)[0]] == [None] * 3
    ordered = scanner.enriched_orders("west", 6, seed=2)
    for order, study in zip(ordered, scanner.take_studies(ordered, size=(32, 32)), strict=True):
        assert study.truth == GroundTruth(order.case.patient, frozenset(order.case.findings))
