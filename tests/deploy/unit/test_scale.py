"""The page about archives of millions shows what its script prints, and the script adds up."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from deploy import scale  # a namespace: a folder of files, not a package

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "deploy/docs/scale.md").read_text()
MEASURED = {
    "seconds": {"receive": 0.01, "decode": 0.36, "decode_jpeg2000": 0.5, "encode": 0.36, "recall": 0.0036},
    "bytes": {"film": 10_000_000, "film_jpeg2000": 5_000_000, "activations": 80_000},
    "gigaflop": 5.9,
    "catalog_bytes": {"catalog_sqlite": 5_000, "catalog_postgresql": 10_000},
}


def test_the_page_shows_what_the_script_prints() -> None:
    printed = subprocess.run(
        [sys.executable, ROOT / "deploy/scale.py"], capture_output=True, text=True, check=True, timeout=30
    ).stdout
    assert f"<!-- python deploy/scale.py -->\n{printed}<!-- end -->" in PAGE


def test_the_measurements_name_their_command() -> None:
    assert json.loads(scale.MEASURED.read_text())["command"] in PAGE


def table(title: str, *options: str) -> dict[str, list[str]]:
    """Rows of one table by their first cell."""
    printed = scale.tables(MEASURED, scale.parser().parse_args(options))
    (found,) = [part for part in printed.split("\n\n") if part.startswith(f"| {title}")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in found.splitlines()[2:]]
    return {first: rest for first, *rest in cells}


def test_disk_is_films_times_bytes() -> None:
    rows = table("disk for")
    assert rows["images, uncompressed"] == ["100.0 TB"]
    assert rows["activation cache"] == ["800 GB"]
    assert rows["catalog, PostgreSQL"] == ["100 GB"]


def test_hours_are_films_times_seconds() -> None:
    rows = table("work for", "--films", "1000000", "--gpu-films-per-second", "1000")
    assert rows["decode, uncompressed"] == rows["encode on CPUs"] == ["100 core-hours"]
    assert rows["encode on GPUs"] == ["0.28 GPU-hours"]


@pytest.mark.parametrize(
    ("read", "cores_alone", "with_cards"),
    [("1000", "200", "100"), ("0.01", "278 (image store)", "278 (image store)")],  # 10 TB at 10 MB a second
)
def test_machines_share_the_work_and_the_image_store(read: str, cores_alone: str, with_cards: str) -> None:
    options = ("--films", "1000000", "--cores", "1", "--nodes", "1,10", "--read-gigabytes", read, "--gpu-films-per-second", "1000")
    rows = table("hours on machines of 1 cores", *options)
    assert [rows["1"][0], rows["1"][2]] == [cores_alone, with_cards]
    assert [row[-1] for row in rows.values()] == ["1", "0.1"]
    assert rows["10"][0] == ("20" if read == "1000" else "278 (image store)")
