"""rules: every decision with a medical or operational meaning, as a pure function with a table test."""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Literal

import numpy as np

from pipeline.domain import (
    ABSENT,
    FINDINGS,
    PRESENT,
    Comparison,
    Header,
    LabelState,
    Scores,
    StoredInstance,
    TrainingExample,
)
from pipeline.header_words import (
    BODY_PART_BY_CODE,
    VIEW_BY_CODE,
    BodyPart,
    View,
    body_part_of_words,
    fold_words,
    names_frontal_view,
    view_of_words,
)
from pipeline.reading_errors import USUAL_ERRORS, ReadingErrors, expected_positives

# Storage SOP classes, PS3.4 B.5. A trailing dot marks a family.
COMPUTED_RADIOGRAPHY = "1.2.840.10008.5.1.4.1.1.1"
DIGITAL_X_RAY_FOR_PRESENTATION = "1.2.840.10008.5.1.4.1.1.1.1"
DIGITAL_X_RAY_FOR_PROCESSING = "1.2.840.10008.5.1.4.1.1.1.1.1"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
STRUCTURED_REPORT_FAMILY = "1.2.840.10008.5.1.4.1.1.88."
KEY_OBJECT_SELECTION = "1.2.840.10008.5.1.4.1.1.88.59"
PRESENTATION_STATE_FAMILY = "1.2.840.10008.5.1.4.1.1.11."

RADIOGRAPH_SOP_CLASSES = {COMPUTED_RADIOGRAPHY, DIGITAL_X_RAY_FOR_PRESENTATION, DIGITAL_X_RAY_FOR_PROCESSING, SECONDARY_CAPTURE}
RADIOGRAPHY_MODALITIES = {"CR", "DX", "RG"}  # PS3.3 C.7.3.1.1.1

DIRECTION_BY_CODE = {"399348003": "AP", "R-10206": "AP", "272479007": "PA", "R-10214": "PA", "R-40888": "PA"}
"""PS3.16 CID 4010: SNOMED CT, and SNOMED RT of older objects."""
DIRECTION_BY_WORD = {"ap": "AP", "a p": "AP", "pa": "PA", "p a": "PA"}

OWN_MODEL_NAME = "radclipd"
"""ManufacturerModelName of every object that this software writes. Identifies own objects, also those of another catalog."""


MONITORING = "monitoring"
"""Selection reason of the random sample that only measures versions: its patients are never trained on."""


SECOND_READING = "second reading"
"""Selection reason of a study whose label everything else contradicts."""


class ObjectKind(StrEnum):
    """Kind of an instance, in the words of an `ignored` reason."""

    RADIOGRAPH = "radiograph"
    REPORT = "structured report"
    KEY_OBJECTS = "key object selection"
    PRESENTATION_STATE = "presentation state"
    OTHER = "object that is no radiograph"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChestPolicy:
    """Choice of images where the header is ambiguous: `[study]` of the configuration."""

    no_view_position: Literal["score", "ignore"] = "score"  # the header states no view
    no_body_part: Literal["score", "ignore"] = "score"  # the header states no body part
    for_processing: Literal["score", "ignore"] = "ignore"  # raw images, PresentationIntentType FOR PROCESSING


@dataclass(frozen=True, slots=True)
class ImageChoice:
    """The images of a study to score."""

    images: tuple[StoredInstance, ...]
    reason: str  # why there are none, in words; "": there are images
    unclear: int = 0  # images whose header states view or body part in words without a known meaning


def object_kind(header: Header) -> ObjectKind:
    """Return the kind of an instance, by its SOP class. A secondary capture that radclipd made is no radiograph."""
    uid = header.sop_class_uid
    if uid == SECONDARY_CAPTURE and header.manufacturer_model_name == OWN_MODEL_NAME:
        return ObjectKind.OTHER
    if uid in RADIOGRAPH_SOP_CLASSES:
        return ObjectKind.RADIOGRAPH
    if uid == KEY_OBJECT_SELECTION:
        return ObjectKind.KEY_OBJECTS
    if uid.startswith(STRUCTURED_REPORT_FAMILY):
        return ObjectKind.REPORT
    if uid.startswith(PRESENTATION_STATE_FAMILY):
        return ObjectKind.PRESENTATION_STATE
    return ObjectKind.OTHER


def may_be_own(header: Header) -> bool:
    """Tell whether an instance is of a class that radclipd writes: an SR or a secondary capture."""
    return object_kind(header) is ObjectKind.REPORT or header.sop_class_uid == SECONDARY_CAPTURE


def is_own_object(header: Header) -> bool:
    """Tell whether an instance is an SR or a visible object that radclipd wrote."""
    return may_be_own(header) and header.manufacturer_model_name == OWN_MODEL_NAME


def may_hold_labels(header: Header) -> bool:
    """Tell whether an instance is an SR or KOS that may contain a reader's labels. Own reports never do."""
    documents = {ObjectKind.REPORT, ObjectKind.KEY_OBJECTS}
    return object_kind(header) in documents and not is_own_object(header)


def opens_study(header: Header) -> bool:
    """Tell whether the arrival of this instance can change the images to score: only a radiograph can."""
    return object_kind(header) is ObjectKind.RADIOGRAPH


def choose_images(instances: Iterable[StoredInstance], policy: ChestPolicy) -> ImageChoice:
    """Choose the frontal chest radiographs of a study."""
    images: list[StoredInstance] = []
    reasons: Counter[str] = Counter()
    for instance in instances:
        reason = exclusion_reason(instance.header, policy)
        if reason is None:
            images.append(instance)
        else:
            reasons[reason] += 1
    explanation = "; ".join(f"{reason} ({count})" for reason, count in reasons.most_common())
    unclear = sum(is_unclear(image.header) for image in images)
    return ImageChoice(tuple(images), "" if images else explanation or "no instances", unclear)


def split_reasons(explanation: str) -> list[str]:
    """Return the reasons in an explanation of `choose_images`, without the counts of images."""
    return [re.sub(r" \(\d+\)$", "", reason) for reason in explanation.split("; ") if reason]


def exclusion_reason(header: Header, policy: ChestPolicy) -> str | None:
    """Return why this instance is not a frontal chest radiograph that can be scored, or None."""
    kind = object_kind(header)
    if kind is not ObjectKind.RADIOGRAPH:
        return kind.value
    return _exclude_by_object(header, policy) or _exclude_by_body_part(header, policy) or _exclude_by_view(header, policy)


def _exclude_by_object(header: Header, policy: ChestPolicy) -> str | None:
    if header.sop_class_uid == SECONDARY_CAPTURE and header.modality.upper() not in RADIOGRAPHY_MODALITIES:
        return "secondary capture that is no radiograph"
    if not header.has_pixels and header.rows is None:  # with Rows an image was meant: its reader tells that the pixels are lost
        return "no image"
    if (header.number_of_frames or 1) > 1:
        return "more than one frame"
    if _is_for_processing(header) and policy.for_processing == "ignore":
        return "raw image for processing"
    return None


def _is_for_processing(header: Header) -> bool:
    return (
        header.sop_class_uid == DIGITAL_X_RAY_FOR_PROCESSING or header.presentation_intent_type.upper().strip() == "FOR PROCESSING"
    )


def _exclude_by_body_part(header: Header, policy: ChestPolicy) -> str | None:
    stated = _read_body_parts(header)
    if stated & {BodyPart.OTHER, BodyPart.MIXED}:
        return "not the chest"
    if BodyPart.CHEST in stated:
        return None
    of_image = body_part_of_words(f"{header.series_description} {header.protocol_name}")
    is_known = of_image in (BodyPart.CHEST, BodyPart.OTHER)
    described = of_image if is_known else body_part_of_words(header.study_description)
    if described is BodyPart.CHEST:
        return None
    if described is BodyPart.OTHER or BodyPart.UNCLEAR in stated:
        return "not the chest"
    return None if policy.no_body_part == "score" else "body part not stated"


def _exclude_by_view(header: Header, policy: ChestPolicy) -> str | None:
    stated = _read_views(header)
    of_image = view_of_words(f"{header.series_description} {header.protocol_name}")
    of_study = header.study_description  # may speak of several images
    if not stated & {View.FRONTAL, View.LATERAL, View.OTHER}:
        if of_image in (View.FRONTAL, View.LATERAL, View.OTHER):
            stated.add(of_image)
        elif (view := view_of_words(of_study)) is View.FRONTAL or not names_frontal_view(of_study):
            stated.add(view)
    if View.OTHER in stated:
        return "view that is not frontal"
    if View.LATERAL in stated:
        return "lateral view"
    if View.FRONTAL in stated or policy.no_view_position == "score":
        return None
    return "view not stated"


def _read_body_parts(header: Header) -> set[BodyPart]:
    """Return what code and words state of the body part."""
    by_code = BODY_PART_BY_CODE.get(header.anatomic_region_code)
    return {by_code or body_part_of_words(header.anatomic_region_meaning), body_part_of_words(header.body_part_examined)}


def _read_views(header: Header) -> set[View]:
    """Return what code and words state of the view. "L" and "R" alone are laterals."""
    is_side = header.view_position.strip().upper() in ("L", "R")
    by_words = View.LATERAL if is_side else view_of_words(header.view_position)
    return {VIEW_BY_CODE.get(header.view_code) or view_of_words(header.view_code_meaning), by_words}


def frontal_direction(header: Header) -> str:
    """Return "AP" or "PA" as the header states it by code or by ViewPosition (PS3.3 C.8.11.5.1.1), else ""."""
    return DIRECTION_BY_CODE.get(header.view_code) or DIRECTION_BY_WORD.get(fold_words(header.view_position), "")


def is_unclear(header: Header) -> bool:
    """Tell whether view or body part is stated in words without a known meaning, or of several meanings."""
    parts = _read_body_parts(header)
    views = _read_views(header)
    has_view, has_part = View.FRONTAL in views, BodyPart.CHEST in parts
    return (View.UNCLEAR in views and not has_view) or (BodyPart.UNCLEAR in parts and not has_part)


def is_complete(received: int, archive_count: int | None) -> bool:
    """Tell whether all instances that the archive counts have arrived. A count of None (unknown) or 0 is never complete."""
    return bool(archive_count) and received >= (archive_count or 0)


def aggregate_scores(scores: Sequence[Scores], method: Literal["max", "mean"]) -> Scores:
    """Return the scores float32 [14] of a study from those of its images, [14] each. `max`: present on any image is present."""
    stacked = np.stack(scores)
    return np.asarray(stacked.max(axis=0) if method == "max" else stacked.mean(axis=0), dtype=np.float32)


def truncate_to_milliseconds(moment: datetime) -> datetime:
    """Return an aware time in UTC, truncated to the catalog's precision, so that a statement imported twice has the same time."""
    return moment.astimezone(UTC).replace(microsecond=moment.microsecond // 1000 * 1000)


def labels_fingerprint(states: Mapping[tuple[str, str], LabelState], *, exposed: Collection[tuple[str, str]] = ()) -> str:
    """Return the SHA-256, hex, of the present and absent entries of (StudyInstanceUID, finding) -> state; "" without such entries.

    Independent of the order. Uncertain entries are left out, because nothing is learnt from them. `exposed`: entries that versions
    are not measured on.
    """
    marks = {key: ("exposed",) for key in exposed}
    entries = sorted((*key, state.value, *marks.get(key, ())) for key, state in states.items() if state is not LabelState.UNCERTAIN)
    lines = "".join("\t".join(entry) + "\n" for entry in entries)
    return hashlib.sha256(lines.encode()).hexdigest() if lines else ""


@dataclass(frozen=True, slots=True)
class LearnableFindings:
    """The findings with enough examples to be learnt."""

    findings: tuple[str, ...]
    exclusions: Mapping[str, str]  # every other finding -> the reason in words


def learnable_findings(
    examples: Sequence[TrainingExample], *, min_positives: float, errors: ReadingErrors = USUAL_ERRORS
) -> LearnableFindings:
    """Return the findings with two patients or more of either state, and with `min_positives` true positive studies expected."""
    findings: list[str] = []
    exclusions: dict[str, str] = {}
    expected = expected_positives(examples, errors) if examples else np.zeros(len(FINDINGS))
    for column, finding in enumerate(FINDINGS):
        positives = sum(example.targets[column] == PRESENT for example in examples)
        present, absent = (
            {example.patient_key for example in examples if example.targets[column] == target} for target in (PRESENT, ABSENT)
        )
        if expected[column] >= min_positives and len(present) > 1 and len(absent) > 1:
            findings.append(finding)
        else:
            exclusions[finding] = (
                f"{positives} present, of {len(present)} patients, {expected[column]:.1f} expected true;"
                f" absent in {len(absent)} patients"
            )
    return LearnableFindings(tuple(findings), exclusions)


MAX_SELECTION_WEIGHT = 4.0
"""Largest weight of a case in comparisons of versions: a bound on the variance that weights add."""


def selection_weight(probability: float | None) -> float:
    """Return the weight of a case that was selected with this probability: its inverse (Horvitz and Thompson 1952), bounded.

    Cases that the worklist searched for with the serving version's ranking say less of the archive than cases that it hardly could
    have selected. None, not selected by a worklist, has the bound.
    """
    return MAX_SELECTION_WEIGHT if probability is None else min(1.0 / probability, MAX_SELECTION_WEIGHT)


SPENDING_POWER = 1.25
"""Exponent of the spending function: look n at the same serving version has 1 / n^1.25 of the first look's error probability."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GatePolicy:
    """Requirements on a candidate: `[learn]` of the configuration."""

    min_patients: int = 10  # patients in a comparison; fewer decide nothing
    min_confidence: float = 0.9  # smallest Comparison.not_inferior at the first look, 0..1
    promote: Literal["auto", "manual"] = "manual"

    def required_confidence(self, look: int) -> float:
        """Return the smallest `Comparison.not_inferior` at a look, counted from 1: the number of candidates compared with one
        serving version.

        Nightly candidates for one serving version are repeated looks at one question. Each look spends a smaller part of the
        error probability (alpha spending: Lan and DeMets, Biometrika 1983;70:659).
        """
        return float(1.0 - (1.0 - self.min_confidence) / look**SPENDING_POWER)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The gate's decision on a candidate."""

    passed: bool  # whether it may serve
    reason: str  # in words
    waits: bool = False  # nothing is decided: labels to measure it on are missing


def may_promote(comparisons: Sequence[Comparison], policy: GatePolicy, *, look: int = 1) -> Verdict:
    """Decide on a candidate: worse than no other version by the gate's margin or more, with `policy.min_confidence`; than the
    serving version with `policy.required_confidence(look)`.

    A finding that ranks worse keeps its earlier column in the candidate and is no reason against the others. The monitoring sample
    is small and has few positives: on it the candidate must not be certainly worse, that is with the whole 95 % interval below 0.
    The last comparison on training cases is that with the serving version; a candidate that ranks as that version gains nothing.
    A candidate that no comparison refuses waits where one has too few cases to decide: labels that were given without the model's
    result, the only ones that comparisons use.
    """
    trained = [comparison for comparison in comparisons if not comparison.monitoring]
    if not trained:
        return Verdict(False, "it was compared with nothing")
    missing = [reason for comparison in trained if (reason := _explain_missing(comparison, policy))]
    for comparison in comparisons:
        required = policy.required_confidence(look) if comparison is trained[-1] else policy.min_confidence
        reason = _explain_worse(comparison, policy) if comparison.monitoring else _explain_inferior(comparison, policy, required)
        if reason:
            return Verdict(False, reason)
    if missing:
        return Verdict(False, missing[0], waits=True)
    if _is_equal(trained[-1]):
        return Verdict(False, f"it ranks the cases as {trained[-1].against} does, in every finding: nothing would be gained")
    defined = [comparison for comparison in comparisons if not math.isnan(comparison.candidate - comparison.other)]
    return Verdict(True, "; ".join(_describe_comparison(comparison) for comparison in defined))


def _is_equal(comparison: Comparison) -> bool:
    return not comparison.new and comparison.candidate == comparison.other and comparison.lower == comparison.upper == 0


def _explain_worse(comparison: Comparison, policy: GatePolicy) -> str:
    """Return why a candidate fails on the monitoring sample, or "". A sample of too few patients decides nothing."""
    if comparison.patients < policy.min_patients or not comparison.upper < 0:
        return ""
    return f"worse than {comparison.against} for certain; {_describe_comparison(comparison)}"


def _explain_missing(comparison: Comparison, policy: GatePolicy) -> str:
    """Return what is missing to decide by the training cases, or ""."""
    missing = policy.min_patients - comparison.patients
    if missing > 0:
        return (
            f"waits for labels: {comparison.patients} patients to compare it with {comparison.against} are too few;"
            f" {policy.min_patients} are asked for, so {missing} more with labels given without the model's result"
        )
    if math.isnan(comparison.candidate) or math.isnan(comparison.other):
        return (
            "waits for labels: no finding has both kinds among the cases on which it could be compared with"
            f" {comparison.against}, those labelled without the model's result"
        )
    return ""


def _explain_inferior(comparison: Comparison, policy: GatePolicy, required: float) -> str:
    """Return why a candidate fails on the training cases, or "". Too few of them decide nothing."""
    if _explain_missing(comparison, policy) or comparison.not_inferior >= required:
        return ""
    return f"may be worse than {comparison.against} ({required:.1%} confidence is asked for); {_describe_comparison(comparison)}"


def _describe_comparison(comparison: Comparison) -> str:
    return (
        f"mean AUC {comparison.candidate:.3f} against {comparison.other:.3f} of {comparison.against}"
        f" (difference {comparison.lower:+.3f} to {comparison.upper:+.3f},"
        f" not worse by the margin in {comparison.not_inferior:.1%} of resamples,"
        f" {comparison.cases} {'monitoring ' if comparison.monitoring else ''}cases of {comparison.patients} patients)"
        + (f", new: {', '.join(comparison.new)}" if comparison.new else "")
        + (f", worse in groups: {', '.join(comparison.worse_groups)}" if comparison.worse_groups else "")
    )
