from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from adapters.simulator.captions import EVERYDAY_TERMS, TEXTBOOK_TERMS, VAGUE_TERMS, CaptionStyle, caption
from models.classifier.prompts import read_prompts
from pipeline.domain import FINDINGS

EXACT = CaptionStyle(unhelpful=0, omission=0, vague=0, negation=0, subtle=0)
DIALECTS = pytest.mark.parametrize(
    ("words", "textbook"), [(EVERYDAY_TERMS, 0.0), (TEXTBOOK_TERMS, 1.0)], ids=["everyday", "textbook"]
)
Words = Mapping[str, tuple[str, ...]]


def captions(findings: dict[str, float], style: CaptionStyle, count: int = 200) -> list[str]:
    rng = np.random.default_rng(0)
    return [caption(findings, "PA", rng, style=style) for _ in range(count)]


def test_every_finding_has_terms_and_prompts_use_textbook_terms() -> None:
    assert tuple(TEXTBOOK_TERMS) == tuple(EVERYDAY_TERMS) == tuple(VAGUE_TERMS) == FINDINGS
    prompts = read_prompts()
    for finding in FINDINGS:
        assert set(prompts.phrases[finding]) & set(TEXTBOOK_TERMS[finding])


def test_prompts_contain_hardly_any_everyday_term() -> None:
    asked = {word for phrases in read_prompts().phrases.values() for phrase in phrases for word in phrase.split()}
    said = {word for phrases in EVERYDAY_TERMS.values() for phrase in phrases for word in phrase.split() if len(word) > 3}
    assert len(said & asked) < 0.05 * len(said)


@pytest.mark.parametrize("finding", FINDINGS)
@DIALECTS
def test_an_exact_caption_names_the_finding(finding: str, words: Words, textbook: float) -> None:
    said = captions({finding: 0.8}, replace(EXACT, textbook=textbook))
    assert all(any(phrase in text for phrase in words[finding]) for text in said)


@DIALECTS
def test_exactly_the_two_present_findings_are_named(words: Words, textbook: float) -> None:
    for text in captions({"Effusion": 0.5, "Hernia": 0.5}, replace(EXACT, textbook=textbook)):
        assert any(phrase in text for phrase in words["Effusion"])
        assert any(phrase in text for phrase in words["Hernia"])
        assert "no " not in text


def test_a_share_of_the_captions_may_use_textbook_terms() -> None:
    said = captions({"Nodule": 0.8}, replace(EXACT, textbook=0.25), count=400)
    assert 60 < sum(any(phrase in text for phrase in TEXTBOOK_TERMS["Nodule"]) for text in said) < 140


def test_a_caption_of_a_normal_film_names_no_finding_as_present() -> None:
    for text in captions({}, EXACT):
        assert text.startswith(("no ", "a chest x-ray with no ")) or "normal" in text or "unremarkable" in text


def test_a_denied_finding_is_absent() -> None:
    for text in captions({"Edema": 0.9}, replace(EXACT, negation=1)):
        denied = text.split(". no ")[-1]
        assert any(denied in EVERYDAY_TERMS[finding] for finding in FINDINGS if finding != "Edema")


def test_the_smallest_findings_are_omitted_most_often() -> None:
    style = replace(EXACT, subtle=1)
    silent = [
        sum(not any(word in text for word in EVERYDAY_TERMS["Mass"]) for text in captions({"Mass": e}, style))
        for e in (0.05, 0.5, 1)
    ]
    assert silent[0] > silent[1] > silent[2] == 0


def test_all_placeholders_are_filled_and_an_unknown_finding_is_a_key_error() -> None:
    for findings in ({}, {"Mass": 0.1}, {name: 0.5 for name in FINDINGS[:5]}):
        assert not any("{" in text for text in captions(findings, CaptionStyle()))
    with pytest.raises(KeyError):
        captions({"Gout": 1.0}, EXACT)
