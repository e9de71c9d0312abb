from __future__ import annotations

import csv
import re
from importlib.resources import files
from typing import Any

import pytest
from highdicom.sr import CodedConcept
from pydicom.sr._concepts_dict import concepts

from adapters.dicom.sr import codes, label_codes
from adapters.dicom.sr.codes import FindingCode, finding_codes
from adapters.dicom.sr.content_tree import Code
from pipeline.domain import FINDINGS, NO_FINDING, LabelState

# Verhoeff's check digit: every SNOMED CT identifier ends in one.
D = [
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9],
    [1, 2, 3, 4, 0, 6, 7, 8, 9, 5],
    [2, 3, 4, 0, 1, 7, 8, 9, 5, 6],
    [3, 4, 0, 1, 2, 8, 9, 5, 6, 7],
    [4, 0, 1, 2, 3, 9, 5, 6, 7, 8],
    [5, 9, 8, 7, 6, 0, 4, 3, 2, 1],
    [6, 5, 9, 8, 7, 1, 0, 4, 3, 2],
    [7, 6, 5, 9, 8, 2, 1, 0, 4, 3],
    [8, 7, 6, 5, 9, 3, 2, 1, 0, 4],
    [9, 8, 7, 6, 5, 4, 3, 2, 1, 0],
]
P = [[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]]
FIRST = [1, 5, 7, 6, 2, 8, 3, 0, 9, 4]
for _ in range(7):
    P.append([P[-1][FIRST[i]] for i in range(10)])


def verhoeff(number: str) -> bool:
    check = 0
    for position, digit in enumerate(reversed(number)):
        check = D[check][P[position % 8][int(digit)]]
    return check == 0


def test_the_check_digit_distinguishes_valid_from_invalid_codes() -> None:
    assert verhoeff("46621007")
    assert not verhoeff("196121004")  # in circulation for pleural thickening


def test_every_finding_has_a_distinct_code_with_a_source() -> None:
    assert list(finding_codes()) == list(FINDINGS)
    assert all(code.source for code in finding_codes().values())
    assert len({code.concept.value for code in finding_codes().values()}) == len(FINDINGS)


@pytest.mark.parametrize("code", finding_codes().values(), ids=lambda code: code.finding)
def test_codes_are_well_formed(code: FindingCode) -> None:
    for concept in (code.concept, code.site):
        if concept.scheme_designator == "SCT":
            assert verhoeff(concept.value)
        assert len(concept.value) <= 16
        assert len(concept.meaning) <= 64


def test_codes_in_the_standard_have_its_meaning() -> None:
    found = [code.concept for code in finding_codes().values()]
    found += [code.site for code in finding_codes().values()] + list(codes.DECISIONS.values())
    found += [codes.DEVICE, codes.PROBABILITY, codes.CERTAINTY_OF_FINDING, codes.COMMENT, codes.ARTIFICIAL_INTELLIGENCE]
    listed = [(concept, meanings) for concept in found if (meanings := standard_meanings(concept))]
    assert len(listed) >= 20
    assert [(concept.meaning, meanings) for concept, meanings in listed if plain(concept.meaning) not in meanings] == []


def test_label_codes_are_valid_and_unambiguous() -> None:
    with files("adapters.dicom.sr").joinpath("label_codes.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    keys = [(row["code"], row["scheme"]) for row in rows]
    assert len(set(keys)) == len(keys)
    assert all(row["source"] for row in rows)
    assert {row["means"] for row in rows if row["kind"]} <= {*FINDINGS, NO_FINDING}
    assert {row["means"] for row in rows if not row["kind"]} == {*LabelState, label_codes.UNCLEAR}
    assert all(verhoeff(row["code"]) for row in rows if row["scheme"] == "SCT")
    concepts_read = [CodedConcept(row["code"], row["scheme"], row["meaning"]) for row in rows]
    concepts_read += [CodedConcept(c.value, c.scheme, c.meaning) for c in label_codes.NOT_OF_THIS_STUDY]
    listed = [(concept, meanings) for concept in concepts_read if (meanings := standard_meanings(concept))]
    assert len(listed) >= 30
    assert [(concept.value, meanings) for concept, meanings in listed if plain(concept.meaning) not in meanings] == []


def test_codes_of_the_writer_are_known_to_the_reader() -> None:
    for finding, code in finding_codes().items():
        mapped = label_codes.mapped_finding(Code(code.concept.value, code.concept.scheme_designator))
        assert mapped is not None
        assert mapped.finding == finding
    for decision, concept in codes.DECISIONS.items():
        expected = {"present": LabelState.PRESENT, "absent": LabelState.ABSENT, "undetermined": LabelState.UNCERTAIN}[decision]
        assert label_codes.presence_state(Code(concept.value, concept.scheme_designator)) is expected


def standard_meanings(concept: CodedConcept) -> set[str]:
    """The meanings of the code in pydicom's copy of PS3.16; empty where it is not listed."""
    scheme: dict[str, dict[str, Any]] = concepts.get(concept.scheme_designator, {})  # type: ignore[assignment]  # untyped table
    return {plain(entries[concept.value][0]) for entries in scheme.values() if concept.value in entries}


def plain(meaning: str) -> str:
    """The meaning without SNOMED CT's semantic tag and the suffix of organs."""
    return re.sub(r" \(.*\)$", "", meaning).removesuffix(" structure").lower()
