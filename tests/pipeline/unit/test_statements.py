"""One function tells a study's findings: words, bands and numbers, in every language."""

from __future__ import annotations

import string

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.decisions import predict_study, withhold
from pipeline.domain import FINDINGS, Decision, NotAssessedReason, Scale
from pipeline.messages import ENGLISH, languages, load_messages
from pipeline.statements import BAND_BOUNDS, LikelihoodBand, band_of, format_percent, tell_study
from tests.builders.fakes.versions import a_version
from tests.pipeline.unit.test_decisions import ZERO_SHOT, a_reference, scores

MIXED = a_version(scales={"Effusion": Scale.PROBABILITY, "Mass": Scale.BAND}, notice="UNTRAINED")


def a_score(**of: float) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    return np.array([of.get(finding, 0.5) for finding in FINDINGS], dtype=np.float32)


def test_each_scale_shows_its_own_number_and_no_other() -> None:
    told = tell_study(predict_study(a_score(Effusion=0.83), MIXED, a_reference()), MIXED, a_reference(), load_messages())
    effusion, mass, edema = (told.of(finding) for finding in ("Effusion", "Mass", "Edema"))
    assert effusion.sentence == "Pleural effusion: probability 83 % (likely), above its operating point (50 %)"
    assert mass.sentence == "Mass: likely, above its operating point"
    assert edema.sentence == "Edema: among the highest 50 % of this hospital's films (unlikely), undetermined (highest 5.0 %)"
    assert [(one.probability is None, one.percentile is None) for one in (effusion, mass, edema)] == [
        (False, True),
        (True, True),
        (True, False),
    ]
    assert told.notice.startswith("UNTRAINED")


def test_the_finding_farthest_above_its_own_operating_point_comes_first() -> None:
    version = a_version(thresholds=dict.fromkeys(FINDINGS, 0.5) | {"Hernia": 0.01})
    told = tell_study(predict_study(a_score(Hernia=0.1, Effusion=0.6), version), version, None, load_messages())
    assert [one.finding for one in told.findings[:2]] == ["Hernia", "Effusion"]
    assert told.summary[0].startswith("Above its operating point: Hernia, Pleural effusion")
    assert [line[:2] for line in told.summary[1:4]] == ["1.", "2.", "3."]


def test_nothing_above_its_operating_point_is_said_in_words() -> None:
    told = tell_study(predict_study(scores(0.1), a_version()), a_version(), None, load_messages())
    assert told.above == ()
    assert told.summary[0] == "Nothing above its operating point."


def test_what_is_not_assessed_is_told_with_its_reason_and_no_number() -> None:
    told = tell_study(predict_study(scores(0.9), ZERO_SHOT), ZERO_SHOT, None, load_messages())
    assert told.summary == ("Not assessed: fewer than 200 studies of this hospital scored so far.",)
    assert {(one.probability, one.percentile, one.band, one.number_words) for one in told.findings} == {(None, None, None, "")}
    some = withhold(predict_study(scores(0.9), a_version()), NotAssessedReason.STOPPED, ["Mass"])
    told = tell_study(some, a_version(), None, load_messages())
    assert told.summary[-1] == "Not assessed (reporting of this finding is stopped): Mass."
    assert told.findings[-1].finding == "Mass"


def test_a_withdrawal_says_so_first_and_nothing_else() -> None:
    gone = withhold(predict_study(scores(0.9), a_version()), NotAssessedReason.WITHDRAWN)
    told = tell_study(gone, a_version(), None, load_messages(), withdrawal="scanner miscalibrated")
    assert told.summary == ("WITHDRAWN: scanner miscalibrated.",)
    assert {one.decision for one in told.findings} == {Decision.NOT_ASSESSED}


@given(st.lists(st.floats(0, 1, width=32), min_size=14, max_size=14), st.sampled_from(languages()))
def test_a_finding_is_above_exactly_where_its_excess_is_not_negative(values: list[float], language: str) -> None:
    reference = a_reference()
    told = tell_study(predict_study(np.array(values, np.float32), MIXED, reference), MIXED, reference, load_messages(language))
    assert {one.finding for one in told.findings} == set(FINDINGS)
    excess = [one.excess for one in told.findings if one.excess is not None]
    assert excess == sorted(excess, reverse=True)
    assert [one.finding for one in told.above] == [one.finding for one in told.findings if (one.excess or 0) >= 0]


@pytest.mark.parametrize("language", languages())
def test_every_language_has_the_same_messages_with_the_same_fields(language: str) -> None:
    def fields(text: str) -> set[str]:
        return {name for _, name, _, _ in string.Formatter().parse(text) if name}

    english, other = load_messages(ENGLISH).texts, load_messages(language).texts
    assert {key: fields(text) for key, text in other.items()} == {key: fields(text) for key, text in english.items()}


def test_words_of_another_language_differ_and_an_unknown_language_is_refused() -> None:
    english, german = (load_messages(language).texts for language in ("en", "de"))
    assert [key for key in english if key.startswith("decision.") and english[key] == german[key]] == []
    with pytest.raises(ValueError, match="one of de, en"):
        load_messages("xx")


def test_bands_cover_every_likelihood_in_order() -> None:
    assert list(BAND_BOUNDS) == list(LikelihoodBand)
    assert [band_of(share) for share in (0, 0.02, 0.3, 0.5, 0.9, 1)] == [
        LikelihoodBand.VERY_UNLIKELY,
        LikelihoodBand.UNLIKELY,
        LikelihoodBand.POSSIBLE,
        LikelihoodBand.LIKELY,
        LikelihoodBand.VERY_LIKELY,
        LikelihoodBand.VERY_LIKELY,
    ]


@pytest.mark.parametrize(("share", "words"), [(0.834, "83"), (0.049, "4.9"), (0.0123, "1.2"), (0.0012, "0.12"), (1.0, "100")])
def test_percentages_have_no_more_digits_than_they_can_bear(share: float, words: str) -> None:
    assert format_percent(share) == words
