"""Kappa and PABAK of two readers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import count

import pytest

from pipeline.agreement import measure_agreement, measure_repeatability
from pipeline.domain import DeskReading, Label, LabelState

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
NUMBERS = count(1)
STATES = {"p": LabelState.PRESENT, "a": LabelState.ABSENT, "u": LabelState.UNCERTAIN}


def labels_of(reader: str, said: str, *, hours: int = 0, finding: str = "Mass") -> list[Label]:
    """One label a letter, on the studies 0, 1, ...; "-" says nothing."""
    return [
        Label(
            id=next(NUMBERS),
            study_instance_uid=f"1.{number}",
            finding=finding,
            state=STATES[letter],
            reader=reader,
            source="desk",
            stated_at=NOON + timedelta(hours=hours),
        )
        for number, letter in enumerate(said)
        if letter != "-"
    ]


def test_kappa_and_pabak() -> None:
    """20 present by both, 5 and 10 by one, 15 absent by both: kappa .4 (the usual example), PABAK .4."""
    one, other = "p" * 25 + "a" * 25, "p" * 20 + "a" * 5 + "p" * 10 + "a" * 15
    [found] = measure_agreement(labels_of("bob", one) + labels_of("alice", other))
    assert (found.readers, found.studies, found.observed) == (("alice", "bob"), 50, 0.7)
    assert found.kappa == pytest.approx(0.4)
    assert found.pabak == pytest.approx(0.4)


def test_a_rare_finding_has_a_low_kappa_and_a_high_pabak() -> None:
    [found] = measure_agreement(labels_of("a", "p" + "a" * 99) + labels_of("b", "ap" + "a" * 98))
    assert found.kappa is not None
    assert found.kappa < 0
    assert found.pabak == pytest.approx(0.96)


def test_readers_who_always_say_the_same_have_no_kappa() -> None:
    [found] = measure_agreement(labels_of("a", "aaa") + labels_of("b", "aaa"))
    assert (found.kappa, found.pabak) == (None, 1.0)


def test_first_statements_count_and_uncertain_ones_do_not() -> None:
    first = labels_of("a", "ppa") + labels_of("b", "aup") + labels_of("b", "pp-", hours=1)
    [found] = measure_agreement(first)
    assert found.studies == 3
    assert found.observed == pytest.approx(1 / 3)


def test_only_common_studies_and_findings_are_compared() -> None:
    assert measure_agreement(labels_of("a", "pp") + labels_of("b", "--pp")) == []
    assert measure_agreement(labels_of("a", "pp") + labels_of("b", "pp", finding="Nodule")) == []


def test_a_reader_with_himself() -> None:
    def reading(number: int, letter: str, reader: str = "a") -> DeskReading:
        states = {"Mass": STATES[letter]}
        return DeskReading(study_instance_uid=f"1.{number}", reader=reader, idempotency_key=f"{number}{letter}", states=states)

    pairs = [("p", "p"), ("p", "a"), ("a", "a"), ("a", "a"), ("u", "p")]
    said = [(reading(number, first), reading(number, again)) for number, (first, again) in enumerate(pairs)]
    [mine, others] = measure_repeatability([*said, (reading(9, "p", "b"), reading(9, "p", "b"))])
    assert (mine.finding, mine.readers, mine.studies, mine.observed) == ("Mass", ("a", "a"), 4, 0.75)
    assert mine.kappa == pytest.approx(0.5)
    assert (others.readers, others.kappa, others.pabak) == (("b", "b"), None, 1.0)
