from __future__ import annotations

import csv
import gzip
import io
from itertools import combinations as pairs
from pathlib import Path

import numpy as np
import pytest

from adapters.simulator import prevalence
from adapters.simulator.sites import NATURAL_AP_SHARE
from pipeline.domain import FINDINGS
from tests.builders import peers

HEADER = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,OriginalImage[Width,Height]"


def real_rows() -> list[list[str]]:
    with gzip.open(peers.shared("nih-labels/Data_Entry_2017_v2020.csv.gz"), "rt") as table:
        return list(csv.reader(table))[1:]


def test_the_packaged_table_equals_the_summary_of_the_original_table() -> None:
    ours = Path(prevalence.__file__).with_name("prevalence.csv").read_text()
    assert prevalence.summarise(peers.shared("nih-labels/Data_Entry_2017_v2020.csv.gz")) == ours
    assert len(ours) < 30_000


@pytest.mark.parametrize("view", prevalence.VIEWS)
def test_prevalences_and_pairs_of_findings_match_the_original_table(view: str) -> None:
    shown = [set(row[1].split("|")) for row in real_rows() if row[6] == view]
    table = prevalence.combinations(view)
    for index, finding in enumerate(FINDINGS):
        real = np.mean([finding in names for names in shown])
        assert table.prevalence[index] == pytest.approx(real, rel=0.03)
    for one, other in pairs(range(len(FINDINGS)), 2):
        together = float(np.mean([{FINDINGS[one], FINDINGS[other]} <= names for names in shown]))
        ours = float(table.share[table.has[:, one] & table.has[:, other]].sum())
        assert ours == pytest.approx(together, rel=0.15, abs=6e-4)


def test_prevalence_follows_the_share_of_ap_films() -> None:
    assert prevalence.prevalence(0.9)["Edema"] > 2 * prevalence.prevalence(0.1)["Edema"]
    assert prevalence.prevalence() == prevalence.prevalence(NATURAL_AP_SHARE)
    assert tuple(prevalence.prevalence()) == FINDINGS


def test_an_unknown_view_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        prevalence.combinations("LL")


def a_table(lines: list[str], path: Path) -> Path:
    path.write_text("\n".join([HEADER, *lines]) + "\n")
    return path


def test_a_rare_combination_loses_its_most_frequent_finding(tmp_path: Path) -> None:
    lines = [
        "a.png,Effusion|Hernia,0,1,50,F,PA,1,2",
        *["b.png,Effusion,0,2,60,M,PA,1,2"] * 5,
        *["c.png,No Finding,1,3,40,M,PA,1,2"] * 3,
    ]
    lines += ["d.png,Edema,0,4,413,M,AP,1,2"]
    rows = list(csv.DictReader(io.StringIO(prevalence.summarise(a_table(lines, tmp_path / "table.csv")))))
    shown = {row["value"]: row for row in rows if row["of"] == "findings"}
    assert {value: int(row["count"]) for value, row in shown.items()} == {"2": 5, "": 3, "13": 1}
    assert (shown["13"]["female"], shown["13"]["age"]) == ("1.00", "50")
    assert {row["value"]: row["count"] for row in rows if row["of"] == "visits"} == {"1": "1", "3": "1", "5": "1"}
