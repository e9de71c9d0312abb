from __future__ import annotations

import numpy as np
import pytest

from adapters.hospital.captions import PHRASES, VAGUE, Style, caption
from models.prompts import read_prompts
from pipeline.domain import FINDINGS

EXACT = Style(unhelpful=0, omission=0, vague=0, negation=0, subtle=0)


def captions(findings: dict[str, float], style: Style, count: int = 200) -> list[str]:
    chance = np.random.default_rng(0)
    return [caption(findings, "PA", chance, style=style) for _ in range(count)]


def test_every_finding_has_words_and_the_prompts_use_words_that_captions_know() -> None:
    assert tuple(PHRASES) == tuple(VAGUE) == FINDINGS
    prompts = read_prompts()
    for finding in FINDINGS:
        assert set(prompts.phrases[finding]) & set(PHRASES[finding])


@pytest.mark.parametrize("finding", FINDINGS)
def test_an_exact_caption_names_what_is_there(finding: str) -> None:
    assert all(any(phrase in text for phrase in PHRASES[finding]) for text in captions({finding: 0.8}, EXACT))


def test_two_findings_are_both_named_and_nothing_else() -> None:
    for text in captions({"Effusion": 0.5, "Hernia": 0.5}, EXACT):
        assert any(phrase in text for phrase in PHRASES["Effusion"])
        assert any(phrase in text for phrase in PHRASES["Hernia"])
        assert "no " not in text


def test_a_normal_film_is_never_said_to_show_anything() -> None:
    for text in captions({}, EXACT):
        assert text.startswith(("no ", "a chest x-ray with no ")) or "normal" in text or "unremarkable" in text


def test_a_denied_finding_is_one_that_is_not_there() -> None:
    for text in captions({"Edema": 0.9}, Style(unhelpful=0, omission=0, vague=0, negation=1, subtle=0)):
        denied = text.split(". no ")[-1]
        assert denied not in PHRASES["Edema"]


def test_the_smallest_findings_go_unmentioned_most_often() -> None:
    style = Style(unhelpful=0, omission=0, vague=0, negation=0, subtle=1)
    silent = [
        sum(not any(word in text for word in PHRASES["Mass"]) for text in captions({"Mass": e}, style)) for e in (0.05, 0.5, 1)
    ]
    assert silent[0] > silent[1] > silent[2] == 0


def test_braces_are_all_filled_and_an_unknown_finding_is_refused() -> None:
    for findings in ({}, {"Mass": 0.1}, {name: 0.5 for name in FINDINGS[:5]}):
        assert not any("{" in text for text in captions(findings, Style()))
    with pytest.raises(KeyError):
        captions({"Gout": 1.0}, EXACT)
