"""`radclipd labels` in real processes; the heaviest queries on both databases."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from adapters.catalog.catalog import SqlCatalog
from adapters.label_csv.exporter import EXPORT_COLUMNS, TEMPLATE_COLUMNS
from tests.builders import documents as sr
from tests.builders.catalog_rows import add_instance, chest_header
from tests.builders.command import Radclipd, radclipd_on
from tests.builders.dicom_files import file_of


@pytest.fixture
def radclipd(fresh_url: Callable[[str], str]) -> Radclipd:
    return on(fresh_url("sqlite"))


def on(url: str) -> Radclipd:
    """The verbs on a catalog with three studies, of which two share an accession number."""
    catalog = SqlCatalog(url)
    for number, accession in enumerate(("A1", "A2", "A2"), 1):
        add_instance(catalog, chest_header(study=f"1.{number}", sop=f"1.{number}.1", accession_number=accession))
    catalog.dispose()
    return radclipd_on(url)


def test_two_readers_add_compare_export_and_revoke(catalog_url: str, tmp_path: Path) -> None:
    radclipd = on(catalog_url)
    added = radclipd("labels", "add", "1.1", "Mass", "edema=absent", "--reader", "alice", "--selection-reason", "random")
    assert added.stdout == "2 labels on 1 studies added, 0 known already\n", added.stderr
    assert "14 labels" in radclipd("labels", "add", "A1", "No Finding", "--reader", "bob").stdout
    (conflict,) = json.loads(radclipd("labels", "conflicts", "--json").stdout)
    assert (conflict["finding"], conflict["consensus"], conflict["policy"]) == ("Mass", "absent", "newest")
    assert conflict["votes"].startswith("alice: present (")
    listed = json.loads(radclipd("labels", "list", "--study", "A1", "--finding", "mass", "--json").stdout)
    assert [(row["reader"], row["state"]) for row in listed] == [("bob", "absent"), ("alice", "present")]
    exported = radclipd("labels", "export").stdout
    assert exported.splitlines()[0] == ",".join(EXPORT_COLUMNS)
    (tmp_path / "out.csv").write_text(exported)
    assert radclipd("labels", "import", str(tmp_path / "out.csv")).stdout == "0 labels on 1 studies added, 16 known already\n"
    assert radclipd("labels", "revoke", str(listed[0]["id"]), "--reader", "bob").stdout == "1 labels revoked\n"
    assert json.loads(radclipd("labels", "conflicts", "--json").stdout) == []
    again = radclipd("labels", "revoke", str(listed[0]["id"]), "--reader", "bob")
    assert (again.returncode, "is not in force" in again.stderr) == (1, True)
    assert "revoked" in radclipd("labels", "list", "--all").stdout


def test_a_state_is_read_in_any_case(radclipd: Radclipd) -> None:
    done = radclipd("labels", "add", "1.1", "edema=Absent", "MASS=PRESENT", "no finding=Present", "--reader", "alice")
    assert done.returncode == 2  # the three contradict each other, and all three are understood
    assert "present and absent" in done.stderr
    assert "2 labels" in radclipd("labels", "add", "1.1", "edema=Absent", "Mass=UNCERTAIN", "--reader", "alice").stdout
    listed = json.loads(radclipd("labels", "list", "--json").stdout)
    assert {row["finding"]: row["state"] for row in listed} == {"Edema": "absent", "Mass": "uncertain"}


def test_revoking_the_statement_of_another_reader_says_so(radclipd: Radclipd) -> None:
    radclipd("labels", "add", "1.1", "Mass", "--reader", "alice")
    radclipd("labels", "add", "1.1", "Edema", "--reader", "bob")
    ids = [str(row["id"]) for row in json.loads(radclipd("labels", "list", "--json").stdout)]
    assert radclipd("labels", "revoke", *ids, "--reader", "bob").stdout == "2 labels revoked, 1 of them by another reader: alice\n"


def test_a_column_like_a_finding_is_warned_of_last(radclipd: Radclipd, tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("study_instance_uid,Mass,Pneumo\n1.1,1,1\n")
    done = radclipd("labels", "import", str(path), "--reader", "alice")
    assert done.returncode == 0
    assert done.stderr.splitlines()[-1].startswith("WARNING: column Pneumo was left out: did you mean Pneumonia?")
    strict = radclipd("labels", "import", str(path), "--reader", "alice", "--strict")
    assert strict.returncode == 1
    assert "did you mean Pneumonia?" in strict.stderr


def test_a_faulty_table_is_refused_row_by_row_as_a_whole(radclipd: Radclipd, tmp_path: Path) -> None:
    path = tmp_path / "bad.csv"
    path.write_text("study_instance_uid,accession_number,Mass\n1.1,,1\n,A2,1\n9.9,,perhaps\n")
    done = radclipd("labels", "import", str(path), "--reader", "alice", "--json")
    assert done.returncode == 1
    faults = [(fault["file"], fault["row"], fault["column"], fault["value"]) for fault in json.loads(done.stdout)]
    assert faults == [(str(path), 3, "accession_number", "A2"), (str(path), 4, "Mass", "perhaps")]
    first, hint = done.stderr.splitlines()
    assert first == "radclipd: 2 rows cannot be taken; nothing was imported"
    assert hint == "hint: 2 studies have it: name the study by study_instance_uid"
    assert json.loads(radclipd("labels", "list", "--json").stdout) == []
    path.write_text("study_instance_uid,Mass,comment\n1.1,1,x\n1.2,,\n")
    tried = radclipd("labels", "import", str(path), "--reader", "alice", "--dry-run")
    assert tried.stdout == "1 labels on 1 studies would be added, 0 known already\n"
    assert tried.stderr.splitlines() == ["columns not used: comment", "1 rows say nothing of any finding"]
    assert json.loads(radclipd("labels", "list", "--json").stdout) == []


def test_the_template_has_a_row_for_each_study(radclipd: Radclipd) -> None:
    header, row = csv.reader(io.StringIO(radclipd("labels", "template", "1.2").stdout))
    assert (tuple(header), row[:3]) == (TEMPLATE_COLUMNS, ["1.2", "A2", ""])
    assert radclipd("labels", "template").stdout == ",".join(TEMPLATE_COLUMNS) + "\n"
    assert radclipd("labels", "template", "9.9").returncode == 1


def test_wrong_input_is_one_line_and_a_hint(radclipd: Radclipd, tmp_path: Path) -> None:
    unknown = radclipd("labels", "add", "9.9", "Mass", "--reader", "alice")
    assert (unknown.returncode, unknown.stderr.splitlines()[1][:5]) == (1, "hint:")
    typo = radclipd("labels", "add", "1.1", "Pnuemonia", "--reader", "alice")
    assert (typo.returncode, "did you mean Pneumonia?" in typo.stderr) == (2, True)
    assert radclipd("labels", "add", "1.1", "Mass=perhaps", "--reader", "alice").returncode == 2
    assert radclipd("labels", "add", "1.1", "Mass").returncode == 2
    missing = radclipd("labels", "import", str(tmp_path / "none.csv"))
    assert (missing.returncode, "No such file" in missing.stderr) == (1, True)


def test_explain_says_why_a_document_gives_no_label(radclipd: Radclipd, tmp_path: Path) -> None:
    path = tmp_path / "sr.dcm"
    path.write_bytes(file_of(sr.report(*sr.device(), sr.code(sr.FINDING, sr.MASS))))
    why = radclipd("labels", "explain", str(path))
    assert (why.returncode, why.stderr.splitlines()[0]) == (
        1,
        "radclipd: no label in this document: is not verified, and its observer is a device",
    )
    path.write_bytes(file_of(sr.report(*sr.person(), sr.code(sr.FINDING, sr.MASS))))
    (row,) = json.loads(radclipd("labels", "explain", str(path), "--json").stdout)
    assert (row["finding"], row["state"], row["reader"]) == ("Mass", "present", "House^Gregory")
    assert radclipd("labels", "explain", "9.9.9").returncode == 1
    assert radclipd("labels", "reread").stdout == "0 documents will be read\n"
