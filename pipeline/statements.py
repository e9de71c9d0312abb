"""statements: a study's predictions -> what is told of each finding, in one way everywhere.

`tell_study` is the only function that turns predictions into words, bands and numbers. Every output (SR, text, card, CSV,
`radclipd show`, desk) renders its result; the views of the catalog hold the same fields of the predictions, and `LikelihoodBand`
has one table of bounds for both. What decides, `pipeline.decisions`, runs once, when a study is scored.

The contract:

* A finding has one `Scale`. PROBABILITY gives `probability` and `band`; BAND gives `band` alone; RANK gives `percentile` and
  `band`. A number that is None must not be shown; `likelihood` is never shown as a number unless it is `probability`.
* `decision` is PRESENT exactly where `excess` >= 0: the finding lies above its own operating point.
* `StudyStatement.findings` are in order of `excess`, the highest first; those not assessed come last, in the order of FINDINGS.
* `StudyStatement.above` are those with PRESENT: often none.
* `StudyStatement.summary` are lines in words: what stands above its operating point, the first three findings, what is not
  assessed and why. `research_only`, `notice` and `version_line` go with every report.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby

from pipeline.decisions import DEFAULT_POLICY, DecisionPolicy
from pipeline.domain import FINDINGS, Decision, ModelVersion, NotAssessedReason, Prediction, ReferenceDistribution, Scale
from pipeline.messages import Messages

FIRST_FINDINGS = 3
"""Findings told in words at the top of a report."""


class LikelihoodBand(StrEnum):
    """A likelihood in words."""

    VERY_UNLIKELY = "very unlikely"
    UNLIKELY = "unlikely"
    POSSIBLE = "possible"
    LIKELY = "likely"
    VERY_LIKELY = "very likely"


BAND_BOUNDS: Mapping[LikelihoodBand, float] = {
    LikelihoodBand.VERY_UNLIKELY: 0.02,
    LikelihoodBand.UNLIKELY: 0.1,
    LikelihoodBand.POSSIBLE: 0.5,
    LikelihoodBand.LIKELY: 0.9,
    LikelihoodBand.VERY_LIKELY: float("inf"),
}
"""Upper bound of each band, excluded; in order. The upper three follow the lexicon of Panicek and Hricak 2016."""


def band_of(likelihood: float) -> LikelihoodBand:
    """Return the band of a likelihood in 0..1."""
    return next(band for band, bound in BAND_BOUNDS.items() if likelihood < bound)


@dataclass(frozen=True, slots=True, kw_only=True)
class FindingStatement:
    """What is told of one finding in one study."""

    finding: str  # of FINDINGS
    name: str  # in words
    decision: Decision
    decision_words: str
    scale: Scale
    probability: float | None  # 0..1, of PROBABILITY
    percentile: float | None  # 0..1, of RANK: share of the hospital's own studies with a lower score
    band: LikelihoodBand | None  # None: not assessed
    band_words: str  # "": not assessed
    number_words: str  # "probability 34 %", "among the highest 2 % of this hospital's films"; "": BAND, not assessed
    prevalence: float | None  # estimated prevalence of a learnt finding, stated prior of RANK; None: unknown
    operating_point: float | None  # in the scale's own unit: probability, or of RANK the percentile; None: not assessed
    excess: float | None  # log-odds above its own operating point; None: not assessed
    reference: int | None  # number of the reference distribution, of RANK
    reason: NotAssessedReason | None  # of NOT_ASSESSED
    reason_words: str  # "": assessed
    sentence: str  # all of it in one line


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyStatement:
    """What is told of one study by one version."""

    language: str
    findings: tuple[FindingStatement, ...]  # highest excess first
    summary: tuple[str, ...]  # lines
    title: str
    research_only: str
    notice: str  # the version's marking, in words; "": none
    version_line: str
    version: int
    withdrawal: str = ""  # why the study's reports are withdrawn; "": they are not

    @property
    def above(self) -> tuple[FindingStatement, ...]:
        """The findings above their operating points."""
        return tuple(one for one in self.findings if one.decision is Decision.PRESENT)

    def of(self, finding: str) -> FindingStatement:
        """Return the statement on a finding. KeyError where there is none."""
        return {one.finding: one for one in self.findings}[finding]


def tell_study(
    predictions: Sequence[Prediction],
    version: ModelVersion,
    reference: ReferenceDistribution | None,
    messages: Messages,
    policy: DecisionPolicy = DEFAULT_POLICY,
    withdrawal: str = "",
) -> StudyStatement:
    """Return what is told of a study. `reference`: the distribution that its predictions name; None where they name none.

    `withdrawal`: why the study's reports are withdrawn; the summary then says so first.
    """
    told = [_tell_finding(prediction, version, reference, messages, policy) for prediction in predictions]
    ordered = tuple(sorted(told, key=_get_order))
    return StudyStatement(
        language=messages.language,
        findings=ordered,
        summary=(messages("report.withdrawn", reason=withdrawal),) if withdrawal else tuple(_summarise_findings(ordered, messages)),
        title=messages("report.title"),
        research_only=messages("report.research_only"),
        notice=messages("report.notice", notice=version.notice) if version.notice else "",
        version_line=messages("report.version", number=version.number, name=version.name),
        version=version.number,
        withdrawal=withdrawal,
    )


def _get_order(statement: FindingStatement) -> tuple[bool, float, int]:
    return statement.excess is None, -(statement.excess or 0.0), FINDINGS.index(statement.finding)


def _tell_finding(
    prediction: Prediction,
    version: ModelVersion,
    reference: ReferenceDistribution | None,
    messages: Messages,
    policy: DecisionPolicy,
) -> FindingStatement:
    finding, scale, decision = prediction.finding, prediction.scale, prediction.decision
    assessed = decision is not Decision.NOT_ASSESSED
    probability = prediction.likelihood if assessed and scale is Scale.PROBABILITY else None
    percentile = prediction.percentile if assessed and scale is Scale.RANK else None
    band = band_of(prediction.likelihood) if assessed and prediction.likelihood is not None else None
    point = _get_operating_point(prediction, version, reference) if assessed else None
    words = {
        "finding": messages(f"finding.{finding}"),
        "decision": messages(f"decision.{_to_key(decision)}"),
        "band": messages(f"band.{_to_key(band)}") if band else "",
        "number": _tell_number(probability, percentile, messages),
        "reason": tell_reason(prediction.reason, messages, policy) if prediction.reason else "",
        "threshold": _format_threshold(scale, point),
    }
    return FindingStatement(
        finding=finding,
        name=words["finding"],
        decision=decision,
        decision_words=words["decision"],
        scale=scale,
        probability=probability,
        percentile=percentile,
        band=band,
        band_words=words["band"],
        number_words=words["number"],
        prevalence=_get_prevalence(prediction, version, reference),
        operating_point=point,
        excess=prediction.excess if assessed else None,
        reference=prediction.reference,
        reason=prediction.reason,
        reason_words=words["reason"],
        sentence=messages(f"sentence.{scale.value if assessed else 'not_assessed'}", **words),
    )


def tell_reason(reason: NotAssessedReason, messages: Messages, policy: DecisionPolicy) -> str:
    """Return in words why something is not assessed."""
    return messages(f"reason.{_to_key(reason)}", studies=policy.min_reference_studies, years=policy.min_age_years)


def _get_operating_point(prediction: Prediction, version: ModelVersion, reference: ReferenceDistribution | None) -> float | None:
    if prediction.scale is not Scale.RANK:
        return version.thresholds[prediction.finding]
    return 1 - reference.call_rates[prediction.finding] if reference else None


def _get_prevalence(prediction: Prediction, version: ModelVersion, reference: ReferenceDistribution | None) -> float | None:
    if prediction.scale is Scale.RANK:
        return reference.priors[prediction.finding] if reference else None
    measures = version.card.get("learning", {}).get("measures", {})
    estimated = measures.get(prediction.finding, {}).get("prevalence")
    return None if estimated is None else float(estimated)


def _tell_number(probability: float | None, percentile: float | None, messages: Messages) -> str:
    if probability is not None:
        return messages("number.probability", percent=format_percent(probability))
    if percentile is None:
        return ""
    if percentile >= 0.5:
        return messages("number.rank_high", percent=format_percent(1 - percentile))
    return messages("number.rank", percent=format_percent(percentile))


def _format_threshold(scale: Scale, point: float | None) -> str:
    if point is None:
        return ""
    return format_percent(1 - point if scale is Scale.RANK else point)


def format_percent(share: float) -> str:
    """Return a share in 0..1 in per cent: whole above 10, one decimal from 1, two significant digits below."""
    percent = 100 * share
    return f"{percent:.0f}" if percent >= 10 else f"{percent:.1f}" if percent >= 1 else f"{percent:.2g}"


def _summarise_findings(ordered: Sequence[FindingStatement], messages: Messages) -> list[str]:
    assessed = [one for one in ordered if one.excess is not None]
    missing = [one for one in ordered if one.excess is None]
    lines = []
    if assessed:
        above = [one.name for one in assessed if one.decision is Decision.PRESENT]
        lines.append(messages("report.above", findings=", ".join(above)) if above else messages("report.nothing_above"))
        lines += [f"{place}. {one.sentence}" for place, one in enumerate(assessed[:FIRST_FINDINGS], 1)]
    for reason, group in groupby(sorted(missing, key=lambda one: one.reason_words), key=lambda one: one.reason_words):
        names = [one.name for one in group]
        key = "report.not_assessed" if len(names) == len(ordered) else "report.partly_not_assessed"
        lines.append(messages(key, reason=reason, findings=", ".join(names)))
    return lines


def _to_key(word: str) -> str:
    return str(word).replace(" ", "_")
