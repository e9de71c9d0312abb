"""Tables of labels: every style, every spreadsheet, every fault by its row; a faulty table is refused as a whole."""

from __future__ import annotations

import csv
import gzip
import io
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.label_csv import csv_text
from adapters.label_csv.exporter import EXPORT_COLUMNS, TEMPLATE_COLUMNS, empty_rows, exported_rows
from adapters.label_csv.importer import ImportDefaults, import_table, read_table
from pipeline import labels
from pipeline.consensus import labels_in_force
from pipeline.domain import FINDINGS, Label, LabelExposure, LabelState, ReaderStatement, Sender, StoredFile
from pipeline.errors import InvalidLabels, LabelFault
from pipeline.finding_names import all_absent
from tests.builders import peers
from tests.builders.catalog_rows import chest_header
from tests.builders.fakes.catalog import FakeCatalog

YES, NO, MAYBE = LabelState
ALICE = ImportDefaults(reader="alice")
STUDIES = {"1.1": "A1", "1.2": "A2", "1.3": "A2"}


def a_catalog() -> FakeCatalog:
    catalog = FakeCatalog()
    with catalog.begin() as tx:
        for study, number in STUDIES.items():
            header = chest_header(study=study, sop=f"{study}.1", accession_number=number)
            tx.studies.add_instance(header, StoredFile("k", "f" * 64, 1), Sender("A", "h", "B"), opens_study=True)
    return catalog


def said_in(content: str | bytes, defaults: ImportDefaults = ALICE) -> list[tuple[str, dict[str, LabelState]]]:
    """Return (study as the table names it, findings) of each statement."""
    table = read_table(content if isinstance(content, bytes) else content.encode(), defaults)
    assert table.faults == []
    return [(reading.study_instance_uid or reading.accession_number, dict(reading.findings)) for reading in table.readings]


def faults_of(content: str | bytes, defaults: ImportDefaults = ALICE, catalog: FakeCatalog | None = None) -> list[LabelFault]:
    """Import a faulty table; assert that no label was added and return every fault."""
    catalog = catalog or a_catalog()
    before = list(catalog.tables.labels)
    with pytest.raises(InvalidLabels) as bad:
        import_table(content if isinstance(content, bytes) else content.encode(), defaults, catalog=catalog)
    assert catalog.tables.labels == before
    assert "nothing was" in str(bad.value)
    assert all(fault.remedy and "\n" not in fault.remedy for fault in bad.value.label_faults)
    return list(bad.value.label_faults)


def test_our_own_template() -> None:
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(TEMPLATE_COLUMNS)
    for row in empty_rows({"1.1": "A1", "1.2": "A2"}):
        assert len(row) == len(TEMPLATE_COLUMNS)
        writer.writerow(row)
    assert said_in(buffer.getvalue()) == []  # not filled in yet
    cells = {"accession_number": "A1", "reader": "bob", "stated_at": "2025-06-01T08:15:00+02:00", "selection_reason": "random"}
    cells |= {"selection_probability": "0.25", "Mass": "present", "Pleural_Thickening": "Uncertain", "Hernia": "absent"}
    buffer = io.StringIO()
    filled = csv.DictWriter(buffer, TEMPLATE_COLUMNS)
    filled.writeheader()
    filled.writerow(cells)
    (reading,) = read_table(buffer.getvalue().encode(), ALICE).readings
    assert reading == ReaderStatement(
        row=2,
        accession_number="A1",
        findings={"Mass": YES, "Pleural_Thickening": MAYBE, "Hernia": NO},
        reader="bob",
        source="csv",
        stated_at=datetime(2025, 6, 1, 6, 15, tzinfo=UTC),
        selection_reason="random",
        selection_probability=0.25,
    )


def test_the_style_of_chestxray14() -> None:
    rows = ["a.png,Effusion|Pleural_Thickening,1.1", "b.png,No Finding,1.2", "c.png,Hernia,1.3"]
    table = "\n".join(["Image Index,Finding Labels,StudyInstanceUID", *rows])
    assert said_in(table) == [
        ("1.1", {"Effusion": YES, "Pleural_Thickening": YES}),
        ("1.2", all_absent()),
        ("1.3", {"Hernia": YES}),
    ]
    closed = said_in(table, ImportDefaults(reader="nih", unlisted_state=NO))
    assert closed[0][1] == all_absent() | {"Effusion": YES, "Pleural_Thickening": YES}
    assert closed[1][1] == all_absent()


def test_the_style_of_chexpert() -> None:
    header = (
        "AccessionNumber,Sex,No Finding,Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity,Pleural Effusion,Pleural Other,Edema"
    )
    table = f"{header}\nA1,F,,,1.0,,0.0,,-1.0\nA2,M,1.0,,,,,,\nA3,M,0.0,,,1.0,,,\n"
    assert said_in(table) == [("A1", {"Cardiomegaly": YES, "Effusion": NO, "Edema": MAYBE}), ("A2", all_absent())]
    notes = read_table(table.encode(), ALICE).notes
    assert notes == [
        "columns not used: Sex, Enlarged Cardiomediastinum, Lung Opacity, Pleural Other",
        "1 rows say nothing of any finding",
    ]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_tables_of_every_spreadsheet_are_read(delimiter: str, encoding: str, newline: str) -> None:
    rows = [
        ["Study UID", "Radiologist", "Mass", "note"],
        ["1.1", "Müller, Jörg", "yes", 'a "quoted", one'],
        ["", "", "", ""],
        ["1.2", "", "-1", ""],
    ]
    buffer = io.StringIO()
    csv.writer(buffer, delimiter=delimiter, lineterminator=newline).writerows(rows)
    table = read_table(buffer.getvalue().encode(encoding), ALICE)
    assert [(r.row, r.study_instance_uid, r.reader, r.findings) for r in table.readings] == [
        (2, "1.1", "Müller, Jörg", {"Mass": YES}),
        (4, "1.2", "alice", {"Mass": MAYBE}),
    ]


def test_the_sep_line_of_excel_is_skipped() -> None:
    assert said_in("sep=;\r\nstudy_instance_uid;Mass\r\n1.1;1\r\n") == [("1.1", {"Mass": YES})]


def test_a_decimal_comma_and_a_time_without_an_offset() -> None:
    (reading,) = read_table(
        b"study_instance_uid;Mass;selection_probability;read_at\n1.1;1;0,125;2025-06-01 08:15\n", ALICE
    ).readings
    assert reading.selection_probability == 0.125
    assert reading.stated_at == datetime(2025, 6, 1, 8, 15).astimezone()


def test_every_fault_is_reported_with_its_row() -> None:
    table = "\n".join(
        [
            "StudyInstanceUID,AccessionNumber,Reader,Mass,Edema,No Finding,Selection Probability,stated_at",
            "1.1,,,1,0,,,",
            "1.1,,,perhaps,2,,,",
            "9.9,,,1,,,,",
            ",A2,,1,,,,",
            ",1.23457E+15,,1,,,,",
            "1.2,,,1,,1,,",
            "1.2,,,,0,1,half,31.01.2025",
            "1.2,,,1,,,1.5,2999-01-01",
            "1.3,,,1",
            "1.3,,,1,,,,,surplus",
            "1.3,A1,,1,,,,",
            "1.1,,,0,,,,",
        ]
    )
    found = [(fault.row, fault.column, fault.value) for fault in faults_of(table)]
    assert found == [
        (3, "Mass", "perhaps"),
        (3, "Edema", "2"),
        (4, "StudyInstanceUID", "9.9"),
        (5, "AccessionNumber", "A2"),
        (6, "AccessionNumber", "1.23457E+15"),
        (7, "No Finding", "1"),
        (8, "stated_at", "31.01.2025"),
        (8, "Selection Probability", "half"),
        (9, "stated_at", found[8][2]),
        (9, "Selection Probability", "1.5"),
        (11, "", "surplus"),
        (12, "AccessionNumber", "A1"),
        (13, "Mass", "absent"),
    ]
    remedies = {(fault.row, fault.column): fault.remedy for fault in faults_of(table)}
    assert "format the column as text" in remedies[6, "AccessionNumber"]
    assert remedies[7, "No Finding"].endswith("this row names Mass: correct one of the two")
    assert remedies[11, ""].startswith("this row has 9 cells, the header has 8")
    assert remedies[13, "Mass"].startswith("row 2 says present of the same study by the same reader")


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_empty_cells_at_the_end_of_a_row_may_be_left_out(delimiter: str) -> None:
    table = (
        "study_instance_uid,accession_number,reader,stated_at,No Finding,Atelectasis,Effusion,Mass\n"
        "1.1,A1,bob,,,1\n"
        "1.2\n"
        "1.2,,,,,,0\n"
        "1.3,,,,,,,-1\n"
        "1.3,,carol,,1\n"
    )
    assert said_in(table.replace(",", delimiter)) == [
        ("1.1", {"Atelectasis": YES}),
        ("1.2", {"Effusion": NO}),
        ("1.3", {"Mass": MAYBE}),
        ("1.3", all_absent()),
    ]
    assert said_in("study_instance_uid,Finding Labels\n1.1\n1.2,Mass\n") == [("1.2", {"Mass": YES})]


def test_empty_cells_beyond_the_header_are_none() -> None:
    assert said_in("study_instance_uid;Mass;;\n1.1;1;;;;\n") == [("1.1", {"Mass": YES})]


@pytest.mark.parametrize(
    ("cell", "state"),
    [
        ("1,0", YES),
        ("0,0", NO),
        ("-1,0", MAYBE),
        ("1.0", YES),
        ("TRUE", YES),
        ("False", NO),
        ("Yes", YES),
        ("-1", MAYBE),
        ("1,", YES),
        ("PRESENT", YES),
        (" absent ", NO),
        ("NaN", None),
        ("N/A", None),
        ("-", None),
    ],
)
@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_a_cell_is_read_as_people_and_spreadsheets_write_it(cell: str, state: LabelState | None, delimiter: str) -> None:
    said = said_in(f"study_instance_uid{delimiter}Mass\n1.1{delimiter}{cell}\n")
    assert said == ([("1.1", {"Mass": state})] if state else [])


@pytest.mark.parametrize("cell", ["0,5", "1,0,0", "2", "one", "1;0"])
def test_a_cell_that_says_nothing_clear_is_refused(cell: str) -> None:
    (fault,) = faults_of(f'study_instance_uid\tMass\n1.1\t"{cell}"\n')
    assert (fault.row, fault.column, fault.value) == (2, "Mass", cell)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("Pneumo", "Pneumonia"), ("Emphys", "Emphysema"), ("Thickening", "Pleural_Thickening"), ("Cardio", "Cardiomegaly")],
)
def test_a_column_that_resembles_a_finding_is_a_warning_and_refused_if_strict(name: str, nearest: str) -> None:
    table = f"study_instance_uid,Mass,{name}\n1.1,1,1\n"
    assert said_in(table) == [("1.1", {"Mass": YES})]
    notes = read_table(table.encode(), ALICE).notes
    assert notes[-1] == f"WARNING: column {name} was left out: did you mean {nearest}? rename it, or remove it"
    (fault,) = faults_of(table, ImportDefaults(reader="alice", strict=True))
    assert (fault.row, fault.column) == (1, name)
    assert f"did you mean {nearest}?" in fault.remedy


def test_a_column_that_resembles_a_finding_that_is_there_says_so() -> None:
    notes = read_table(b"study_instance_uid,Emphysema,Emphys\n1.1,1,1\n", ALICE).notes
    assert "whose column Emphysema is there already" in notes[-1]


@pytest.mark.parametrize("name", ["Lung Lesion", "Pleural Other", "Fracture", "Pneumomediastinum", "note", "Sex", "Patient Age"])
def test_other_columns_are_named_without_a_warning_and_refused_if_strict(name: str) -> None:
    table = f"study_instance_uid,Mass,{name}\n1.1,1,1\n"
    assert read_table(table.encode(), ALICE).notes == [f"columns not used: {name}"]
    (fault,) = faults_of(table, ImportDefaults(reader="alice", strict=True))
    assert (fault.column, fault.remedy) == (name, "it is not used: remove it")


def test_forced_texts_and_invisible_marks_of_spreadsheets_are_read() -> None:
    """="1.1" keeps a spreadsheet from rounding a number; web pages leave zero-width and no-break spaces in what is copied."""
    table = 'study_instance_uid,Mass,Edema\n"=""1.1""",\u2007present\u200b,\u22121\n="1.2",\ufeff0,NULL\n\u200b1.3\u00a0,.,1\n'
    assert said_in(table) == [
        ("1.1", {"Mass": YES, "Edema": MAYBE}),
        ("1.2", {"Mass": NO}),
        ("1.3", {"Edema": YES}),
    ]


def test_one_faulty_row_refuses_the_whole_table() -> None:
    rows = "".join(f"1.{1 + number % 3},reader-{number},1\n" for number in range(200))
    (fault,) = faults_of(f"study_instance_uid,reader,Mass\n{rows}1.1,reader-0,broken\n")
    assert (fault.row, fault.column, fault.value) == (202, "Mass", "broken")
    catalog = a_catalog()
    taken, _ = import_table(f"study_instance_uid,reader,Mass\n{rows}".encode(), ALICE, catalog=catalog)
    assert taken == labels.ImportResult(200, 0, 3)


@pytest.mark.parametrize(
    ("table", "column", "remedy"),
    [
        ("study_instance_uid,Asked because,Mass\n1.1,random,1\n", "Asked because", "this column is called selection_reason now"),
        ("study_instance_uid,Mass,Pnuemonia\n1.1,1,1\n", "Pnuemonia", "did you mean Pneumonia?"),
        ("study_instance_uid,Mass,MASS\n1.1,1,1\n", "MASS", "Mass says the same"),
        ("study_instance_uid,Effusion,Pleural Effusion\n1.1,1,1\n", "Pleural Effusion", "Effusion says the same"),
        ("Patient,Mass\n7,1\n", "study_instance_uid", "a table has a column study_instance_uid or accession_number"),
        ("study_instance_uid,comment\n1.1,1\n", "Finding Labels", "columns named after findings"),
        ("study_instance_uid,Finding Labels,Mass\n1.1,Mass,1\n", "Mass", "Finding Labels says the same"),
    ],
)
def test_wrong_columns_are_refused(table: str, column: str, remedy: str) -> None:
    (fault,) = faults_of(table)
    assert (fault.row, fault.column) == (1, column)
    assert remedy in fault.remedy


@pytest.mark.parametrize(
    ("labels_cell", "value"), [("Mass|Tumor", "Tumor"), ("No Finding|Mass", "No Finding|Mass"), ("Mass,Nodule", "Mass,Nodule")]
)
def test_an_unknown_name_in_a_list_is_refused(labels_cell: str, value: str) -> None:
    (fault,) = faults_of(f'study_instance_uid,Finding Labels\n1.1,"{labels_cell}"\n')
    assert (fault.row, fault.column, fault.value) == (2, "Finding Labels", value)


@pytest.mark.parametrize(
    ("content", "remedy"),
    [
        (b"", "the table is empty"),
        (b"\n\n,,\n", "the table is empty"),
        (b"PK\x03\x04rest", "save it as CSV"),
        (b"\xd0\xcf\x11\xe0rest", "save it as CSV"),
        (b"study_instance_uid,Mass\n\x00\x01,1\n", "this is no text"),
        (b"\xff\xfestudy", "this is no text"),
        (b'study_instance_uid,Mass\n1.1,1\n"1.2,1\n', "quotation mark without its other half"),
        (b'study_instance_uid,Mass\n1.1,"1"x\n', "quotation mark without its other half"),
        (b"study_instance_uid,Mass\n" + b"1" * 200_000 + b",1\n", "field larger than field limit"),
    ],
)
def test_a_file_that_is_no_table_is_refused(content: bytes, remedy: str) -> None:
    (fault,) = faults_of(content)
    assert remedy in fault.remedy


def test_the_size_of_a_table_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_text, "MAX_ROWS", 3)
    assert "at most 3 rows" in faults_of("study_instance_uid,Mass\n" + "1.1,1\n" * 3)[0].remedy
    monkeypatch.setattr(csv_text, "MAX_BYTES", 10)
    assert "split the table" in faults_of("study_instance_uid,Mass\n1.1,1\n")[0].remedy


def test_a_table_without_a_reader_is_refused() -> None:
    (fault,) = faults_of("study_instance_uid,Mass\n1.1,1\n", ImportDefaults())
    assert (fault.row, fault.column) == (2, "reader")
    assert "--reader" in fault.remedy


def test_a_dry_run_checks_everything_and_writes_nothing() -> None:
    catalog = a_catalog()
    taken, _ = import_table(b"study_instance_uid,Mass\n1.1,1\n", ALICE, catalog=catalog, dry_run=True)
    assert (taken.added, catalog.tables.labels) == (1, [])


WORDS = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=12)
MOMENTS = st.integers(0, 10**9).map(lambda ms: datetime(2025, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms))
READINGS = st.builds(
    ReaderStatement,
    study_instance_uid=st.sampled_from(list(STUDIES)),
    findings=st.dictionaries(st.sampled_from(FINDINGS), st.sampled_from(LabelState), min_size=1) | st.just(all_absent()),
    reader=WORDS | st.sampled_from(["alice", 'quo"te', "semi;colon", "com,ma", "=1+1"]),
    source=st.sampled_from(["csv", "cli", "sr", "desk"]),
    stated_at=MOMENTS,
    selection_reason=st.just("") | WORDS,
    selection_probability=st.none() | st.floats(1e-6, 1),
    document=st.sampled_from(["", "2.25.1", "2.25.2"]),
)


def exported(catalog: FakeCatalog) -> bytes:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(EXPORT_COLUMNS)
    writer.writerows(exported_rows(labels_in_force(catalog.tables.labels), STUDIES))
    return buffer.getvalue().encode()


def labels_of(catalog: FakeCatalog) -> list[tuple[Any, ...]]:
    def row_of(label: Label) -> tuple[Any, ...]:
        probability = label.selection_probability or 0
        words = (label.study_instance_uid, label.finding, label.reader, label.state, label.stated_at, label.source)
        return *words, label.selection_reason, probability, label.document

    return sorted(map(row_of, labels_in_force(catalog.tables.labels)))


@given(st.lists(READINGS, max_size=6))
def test_an_export_can_be_imported_with_the_same_labels(readings: Sequence[ReaderStatement]) -> None:
    first, second = a_catalog(), a_catalog()
    for reading in readings:
        labels.import_readings([reading], catalog=first)
    content = exported(first)
    if labels_in_force(first.tables.labels):
        import_table(content, ImportDefaults(), catalog=second)
        again, _ = import_table(content, ImportDefaults(), catalog=first)
        assert again.added == 0  # the catalog of the export has all of them
    assert labels_of(second) == labels_of(first)
    assert exported(second) == content


@given(st.binary(max_size=300))
def test_any_bytes_are_a_table_or_are_refused_with_a_message(content: bytes) -> None:
    try:
        read_table(content, ALICE)
    except InvalidLabels as bad:
        assert bad.label_faults


CELLS = st.text(st.characters(exclude_characters="\0"), max_size=6) | st.sampled_from(["Mass", "1", "study_instance_uid", '"', "|"])


@given(st.lists(st.lists(CELLS, max_size=4), max_size=5))
def test_any_cells_are_statements_or_faults(rows: list[list[str]]) -> None:
    buffer = io.StringIO()
    csv.writer(buffer).writerows([["study_instance_uid", "Finding Labels", "reader", "stated_at"], *rows])
    table = read_table(buffer.getvalue().encode("utf-8", "replace"), ALICE)
    assert all(reading.findings for reading in table.readings)


def test_the_real_label_table_of_chestxray14() -> None:
    """112,120 films; the table has no study, so its image index serves as the accession number."""
    with gzip.open(peers.shared("nih-labels/Data_Entry_2017_v2020.csv.gz"), "rt", encoding="utf-8") as stream:
        lines = stream.read()
    table = read_table(
        lines.replace("Image Index", "accession_number", 1).encode(), ImportDefaults(reader="nih", unlisted_state=NO)
    )
    assert (len(table.readings), table.faults) == (112_120, [])
    hernias = sum(reading.findings["Hernia"] is YES for reading in table.readings)
    assert hernias == 227
    assert all(len(reading.findings) == len(FINDINGS) for reading in table.readings)


def test_a_table_states_its_exposure_by_row_or_as_a_whole() -> None:
    table = "study_instance_uid,exposure,Mass\n1.1,seen,1\n1.2,,1\n1.3,None,0\n"
    stated = [reading.exposure for reading in read_table(table.encode(), ALICE).readings]
    assert stated == [LabelExposure.SEEN, None, LabelExposure.NONE]
    blind = ImportDefaults(reader="alice", exposure=LabelExposure.NONE)
    stated = [reading.exposure for reading in read_table(table.encode(), blind).readings]
    assert stated == [LabelExposure.SEEN, LabelExposure.NONE, LabelExposure.NONE]
    (fault,) = faults_of("study_instance_uid,exposure,Mass\n1.1,perhaps,1\n")
    assert (fault.column, fault.remedy) == ("exposure", "write none, possible, seen, or nothing")


def test_a_stated_exposure_outlives_export_and_import() -> None:
    """Of studies with a delivered report, where an import without the column would make each label possibly exposed."""
    catalog, other = a_catalog(), a_catalog()
    for one in (catalog, other):
        one.tables.first_sent["1.1"] = datetime(2020, 1, 1, tzinfo=UTC)
    table = "study_instance_uid,stated_at,exposure,Mass\n1.1,2024-01-01 10:00,none,1\n1.1,2024-01-02 10:00,,0\n"
    import_table(table.encode(), ALICE, catalog=catalog)
    assert [label.exposure for label in catalog.tables.labels] == [LabelExposure.NONE, LabelExposure.POSSIBLE]
    assert "1 statements without the model's result by the word of the sender" in catalog.tables.audit[-1].detail
    rows = [EXPORT_COLUMNS, *exported_rows(catalog.tables.labels, STUDIES)]
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    import_table(text.getvalue().encode(), ALICE, catalog=other)
    assert [label.exposure for label in other.tables.labels] == [LabelExposure.NONE, LabelExposure.POSSIBLE]


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("2026-03-29T01:30:00", datetime(2026, 3, 29, 0, 30, tzinfo=UTC)),
        ("2026-03-29T02:30:00", datetime(2026, 3, 29, 0, 30, tzinfo=UTC)),  # an hour that the clocks skip
        ("2026-10-25T02:30:00", datetime(2026, 10, 25, 0, 30, tzinfo=UTC)),  # an hour that comes twice: the first one
        ("2026-10-25T02:30:00+01:00", datetime(2026, 10, 25, 1, 30, tzinfo=UTC)),
    ],
)
def test_a_local_time_at_the_change_of_daylight_saving_time_is_read(
    written: str, told: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as hospital:
        hospital.setenv("TZ", "Europe/Berlin")
        time.tzset()
        table = read_table(f"study_instance_uid,stated_at,Mass\n1.1,{written},1\n".encode(), ALICE)
    time.tzset()
    assert [reading.stated_at for reading in table.readings] == [told]
