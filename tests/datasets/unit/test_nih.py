"""The label table of ChestX-ray14 in all its formats, and pictures of every mode."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from adapters.datasets import nih
from adapters.datasets.pictures import Picture, read_picture
from pipeline.errors import PermanentError
from tests.builders import nih_folder, peers


def table(folder: Path, *lines: str, name: str = "Data_Entry_2017.csv", header: str = nih_folder.HEADER) -> Path:
    path = folder / name
    path.write_text("\n".join((header, *lines)) + "\n")
    return path


def test_a_header_with_commas_inside_names_is_read(tmp_path: Path) -> None:
    path = table(tmp_path, "00000013_026.png,Cardiomegaly|Pleural_Thickening,26,13,060Y,F,AP,2500,2048,0.168,0.2,")
    [row] = nih.read_table(path)
    assert row == nih.NihRow(
        file_name="00000013_026.png",
        findings=frozenset({"Cardiomegaly", "Pleural_Thickening"}),
        patient="00000013",
        follow_up=26,
        age=60,
        sex="F",
        view="AP",
        size_mm=(2048 * 0.2, 2500 * 0.168),
    )


def test_a_reduced_table_leaves_fields_empty(tmp_path: Path) -> None:
    header = "Image Index,Finding Labels,Patient ID,Patient Age,Patient Gender,View Position"
    path = table(tmp_path, "00000075_003.png,No Finding,75,61,F,PA", name="labels.csv", header=header)
    [row] = nih.read_table(path)
    assert (row.findings, row.follow_up, row.size_mm, row.patient) == (frozenset(), 3, None, "00000075")


@pytest.mark.parametrize(
    ("words", "years"),
    [
        ("058Y", 58),
        ("58", 58),
        ("006M", 0.5),
        ("120", 120),
        ("121", None),
        ("411", None),
        ("414Y", None),
        ("", None),
        ("old", None),
    ],
)
def test_ages_as_both_tables_write_them(words: str, years: float | None) -> None:
    assert nih.parse_age(words) == years


def test_days_and_weeks_are_parts_of_a_year() -> None:
    assert nih.parse_age("014D") == pytest.approx(nih.parse_age("002W"))
    assert nih.parse_age("014D") == pytest.approx(14 / 365.25)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("a.png,Effusio,0,1,50,M,PA", "line 2, column 'Finding Labels': Effusio"),
        ("a.png,,0,1,50,M,PA", "line 2, column 'Finding Labels': nothing"),
        (",Mass,0,1,50,M,PA", "line 2: no Image Index"),
        ("a.png,Mass,0,,50,M,PA", "line 2: no Patient ID"),
        ("a.png,Mass,0,1,50,M,PA\na.png,Mass,0,1,50,M,PA", "lists a.png twice"),
    ],
)
def test_an_invalid_entry_is_refused_with_its_line(line: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(PermanentError, match=says) as refused:
        nih.read_table(table(tmp_path, line))
    assert refused.value.hint


def test_a_table_without_a_required_column_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PermanentError, match="no column 'Patient ID'"):
        nih.read_table(table(tmp_path, "a.png,Mass", header="Image Index,Finding Labels"))


def test_a_truncated_gzip_is_refused(tmp_path: Path) -> None:
    path = nih_folder.collection(tmp_path, 4, packed=True) / "Data_Entry_2017_v2020.csv.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(PermanentError, match="cannot be read as a table"):
        nih.read_table(path)


@pytest.mark.parametrize("packed", [False, True])
def test_a_collection_in_nested_folders_is_read(packed: bool, tmp_path: Path) -> None:
    folder = nih_folder.collection(tmp_path, 6, packed=packed)
    (folder / "images_000" / "images" / "00000002_000.png").unlink()
    nih_folder.save(folder / "images_000" / "stray.png", nih_folder.picture([], seed=0))
    found = nih.read_collection(folder)
    assert [row.file_name for row in found.rows] == [f"{number:08d}_000.png" for number in (1, 3, 4, 5, 6)]
    assert [path.name for path in found.files] == [row.file_name for row in found.rows]
    assert (found.without_file, found.without_row) == (1, 1)
    assert {name: len(files) for name, files in found.lists.items()} == {nih.POOL_LIST: 3, nih.TEST_LIST: 3}


def test_the_corrected_table_takes_precedence_over_the_first(tmp_path: Path) -> None:
    for name in ("labels.csv", "Data_Entry_2017.csv", "Data_Entry_2017_v2020.csv"):
        table(tmp_path, name=name)
    found = nih.find_table(tmp_path)
    assert found is not None
    assert found.name == "Data_Entry_2017_v2020.csv"


def test_one_official_list_without_the_other_is_refused(tmp_path: Path) -> None:
    (nih_folder.collection(tmp_path, 2) / nih.TEST_LIST).unlink()
    with pytest.raises(PermanentError, match=r"holds train_val_list.txt but no test_list.txt"):
        nih.read_collection(tmp_path)


def test_two_files_with_the_same_name_are_refused(tmp_path: Path) -> None:
    nih_folder.collection(tmp_path, 2)
    nih_folder.save(tmp_path / "more" / "00000001_000.png", nih_folder.picture([], seed=0))
    with pytest.raises(PermanentError, match="lies in images and in more"):
        nih.read_collection(tmp_path)


def test_the_original_table_is_read_completely() -> None:
    rows = nih.read_table(peers.shared("nih-labels/Data_Entry_2017_v2020.csv.gz"))
    assert len(rows) == 112_120
    assert sum("Hernia" in row.findings for row in rows) == 227
    assert sum(not row.findings for row in rows) == 60_361
    assert len({row.patient for row in rows}) == 30_805
    assert all(row.size_mm and row.view and row.sex for row in rows)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "I;16", "RGB", "LA", "1"])
def test_a_picture_of_any_mode_keeps_its_grey_levels(mode: str, tmp_path: Path) -> None:
    grey = nih_folder.picture(["Mass"], seed=1)
    nih_folder.save(tmp_path / "film.png", np.rint(grey) if mode == "1" else grey, mode)
    read = read_picture(tmp_path / "film.png")
    assert read.bits == (16 if mode == "I;16" else 8)
    levels = (1 << read.bits) - 1
    assert np.abs(read.brightness - (np.rint(grey) if mode == "1" else grey)).max() <= 0.51 / levels + 1e-6


def test_alpha_is_dropped_and_not_blended(tmp_path: Path) -> None:
    pixels = np.full((4, 4, 4), 200, dtype=np.uint8)
    pixels[..., 3] = 0
    Image.fromarray(pixels, "RGBA").save(tmp_path / "film.png")
    assert (read_picture(tmp_path / "film.png").stored_values == 200).all()


@pytest.mark.parametrize("bits", [8, 16])
def test_a_reduced_picture_keeps_bits_and_aspect_ratio(bits: int) -> None:
    ramp = np.linspace(0, (1 << bits) - 1, 60 * 40).reshape(60, 40)
    picture = Picture(ramp.astype(np.uint8) if bits == 8 else ramp.astype(np.uint16))
    smaller = picture.shrunk_to(30)
    assert smaller.stored_values.shape == (30, 20)
    assert smaller.bits == bits
    assert abs(float(smaller.brightness.mean()) - float(picture.brightness.mean())) < 0.01
    assert picture.shrunk_to(60) is picture


def test_a_file_that_is_not_a_picture_is_refused(tmp_path: Path) -> None:
    (tmp_path / "film.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    with pytest.raises(PermanentError, match=r"film.png is not a picture"):
        read_picture(tmp_path / "film.png")
