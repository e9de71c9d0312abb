"""Every decision with a medical or operational meaning, as a pure function with a table test."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Literal

import numpy as np

from pipeline.domain import FINDINGS, Comparison, Decision, Header, LabelState, Prediction, Scores, StoredInstance, TrainingExample

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

OWN_MODEL_NAME = "radclipd"
"""ManufacturerModelName of every SR that this software writes: how it knows its own, whatever catalog it stands on."""

FRONTAL_VIEWS = {"PA", "AP"}  # PS3.3 C.8.11.5.1.1 and CR ViewPosition
LATERAL_VIEWS = {"LL", "RL", "LAT", "LATERAL", "LLAT", "RLAT"}
CHEST_WORDS = ("CHEST", "THORAX", "LUNG")
OTHER_REGION_WORDS = ("ABD", "SPINE", "PELVIS", "CLAVICLE", "SHOULDER", "STERNUM")


MONITORING = "monitoring"
"""`selection_reason` of the random sample that only measures: nothing of its patients is ever learnt."""


class ObjectKind(StrEnum):
    """What an instance is, in the words of an `ignored` reason."""

    RADIOGRAPH = "radiograph"
    REPORT = "structured report"
    KEY_OBJECTS = "key object selection"
    PRESENTATION_STATE = "presentation state"
    OTHER = "object that is no radiograph"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChestPolicy:
    """What to do where a header does not say: `[study]` of the configuration."""

    no_view_position: Literal["score", "ignore"] = "score"
    no_body_part: Literal["score", "ignore"] = "score"
    for_processing: Literal["score", "ignore"] = "ignore"


@dataclass(frozen=True, slots=True)
class ImageChoice:
    """The images of a study to score, or, where there are none, why in words."""

    images: tuple[StoredInstance, ...]
    reason: str


def object_kind(header: Header) -> ObjectKind:
    """Tell by the SOP class what an instance is."""
    uid = header.sop_class_uid
    if uid in RADIOGRAPH_SOP_CLASSES:
        return ObjectKind.RADIOGRAPH
    if uid == KEY_OBJECT_SELECTION:
        return ObjectKind.KEY_OBJECTS
    if uid.startswith(STRUCTURED_REPORT_FAMILY):
        return ObjectKind.REPORT
    if uid.startswith(PRESENTATION_STATE_FAMILY):
        return ObjectKind.PRESENTATION_STATE
    return ObjectKind.OTHER


def is_own_report(header: Header) -> bool:
    """Tell whether an instance is an SR that radclipd wrote."""
    return object_kind(header) is ObjectKind.REPORT and header.manufacturer_model_name == OWN_MODEL_NAME


def may_hold_labels(header: Header) -> bool:
    """Tell whether an instance is a document that may say what a reader saw. Our own reports never do."""
    documents = {ObjectKind.REPORT, ObjectKind.KEY_OBJECTS}
    return object_kind(header) in documents and not is_own_report(header)


def opens_study(header: Header) -> bool:
    """Tell whether the arrival of this instance can change what is scored: only radiographs can."""
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
    words = "; ".join(f"{reason} ({n})" for reason, n in reasons.most_common())
    return ImageChoice(tuple(images), "" if images else words or "no instances")


def exclusion_reason(header: Header, policy: ChestPolicy) -> str | None:
    """Return why this instance is not a frontal chest radiograph that can be scored, or None."""
    kind = object_kind(header)
    if kind is not ObjectKind.RADIOGRAPH:
        return kind.value
    return _exclude_by_object(header, policy) or _exclude_by_body_part(header, policy) or _exclude_by_view(header, policy)


def _exclude_by_object(header: Header, policy: ChestPolicy) -> str | None:
    if header.sop_class_uid == SECONDARY_CAPTURE and header.modality.upper() not in RADIOGRAPHY_MODALITIES:
        return "secondary capture that is no radiograph"
    if not header.has_pixels:
        return "no pixel data"
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
    stated = header.body_part_examined or header.anatomic_region_meaning
    if stated:
        return None if _is_chest_description(stated) else "not the chest"
    described = f"{header.protocol_name} {header.series_description} {header.study_description}"
    if _is_chest_description(described) or policy.no_body_part == "score":
        return None
    return "body part not stated"


def _is_chest_description(description: str) -> bool:
    upper = description.upper()
    return any(word in upper for word in CHEST_WORDS) and not any(word in upper for word in OTHER_REGION_WORDS)


def _exclude_by_view(header: Header, policy: ChestPolicy) -> str | None:
    view = header.view_position.upper().strip()
    meaning = header.view_code_meaning.lower()
    if view in FRONTAL_VIEWS:
        return None
    if view in LATERAL_VIEWS or (not view and "lateral" in meaning):
        return "lateral view"
    if view:
        return "view that is not frontal"
    if "antero-posterior" in meaning or "postero-anterior" in meaning:
        return None
    described = f"{header.series_description} {header.protocol_name}".upper().replace("_", " ").split()
    if LATERAL_VIEWS & set(described):
        return "lateral view"
    if FRONTAL_VIEWS & set(described) or policy.no_view_position == "score":
        return None
    return "view not stated"


def is_complete(received: int, archive_count: int | None) -> bool:
    """Tell whether all that the archive holds of a study has arrived. An archive that cannot tell, or says 0, tells nothing."""
    return bool(archive_count) and received >= (archive_count or 0)


def aggregate_scores(scores: Sequence[Scores], method: Literal["max", "mean"]) -> Scores:
    """Make one float32 [14] of a study of the [14] of each of its images. `max`: present on any film is present."""
    stacked = np.stack(scores)
    return np.asarray(stacked.max(axis=0) if method == "max" else stacked.mean(axis=0), dtype=np.float32)


def decide(probability: float, *, threshold: float, undetermined_margin: float) -> Decision:
    """Present from threshold + band on, absent below threshold - band, undetermined between."""
    if probability >= threshold + undetermined_margin:
        return Decision.PRESENT
    return Decision.ABSENT if probability < threshold - undetermined_margin else Decision.UNDETERMINED


def predictions_of(scores: Scores, *, thresholds: Mapping[str, float], undetermined_margin: float) -> list[Prediction]:
    """Make the 14 predictions of a study. KeyError where a finding has no threshold."""
    return [
        Prediction(
            finding, float(score), decide(float(score), threshold=thresholds[finding], undetermined_margin=undetermined_margin)
        )
        for finding, score in zip(FINDINGS, scores, strict=True)
    ]


def truncate_to_milliseconds(moment: datetime) -> datetime:
    """Return an aware moment in UTC, cut to what every catalog keeps: the same statement read again has the same time."""
    return moment.astimezone(UTC).replace(microsecond=moment.microsecond // 1000 * 1000)


def labels_fingerprint(states: Mapping[tuple[str, str], LabelState]) -> str:
    """Return the SHA-256, in hex, of what can be learnt from (StudyInstanceUID, finding) -> state; "" where that is nothing.

    The order is no matter. Uncertain is left out like unknown: it changes nothing that is learnt.
    """
    known = sorted((*key, state.value) for key, state in states.items() if state is not LabelState.UNCERTAIN)
    lines = "".join("\t".join(line) + "\n" for line in known)
    return hashlib.sha256(lines.encode()).hexdigest() if lines else ""


@dataclass(frozen=True, slots=True)
class LearnableFindings:
    """The findings that there is enough of to learn; of each other one why not, in words."""

    findings: tuple[str, ...]
    exclusions: Mapping[str, str]


def learnable_findings(examples: Sequence[TrainingExample], *, min_positives: int) -> LearnableFindings:
    """Tell which findings can be learnt and measured: enough studies show it, and either kind comes from two patients or more."""
    found: list[str] = []
    missing: dict[str, str] = {}
    for column, finding in enumerate(FINDINGS):
        positives = sum(lesson.targets[column] == 1 for lesson in examples)
        present, absent = ({lesson.patient_key for lesson in examples if lesson.targets[column] == kind} for kind in (1, 0))
        if positives >= min_positives and len(present) > 1 and len(absent) > 1:
            found.append(finding)
        else:
            missing[finding] = f"{positives} present, of {len(present)} patients; absent in {len(absent)} patients"
    return LearnableFindings(tuple(found), missing)


@dataclass(frozen=True, slots=True, kw_only=True)
class GatePolicy:
    """What a candidate must show: `[learn]` of the configuration."""

    min_patients: int = 10
    min_confidence: float = 0.9
    promote: Literal["auto", "manual"] = "manual"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a candidate is good enough to serve, and the reason in words."""

    passed: bool
    reason: str


def may_promote(comparisons: Sequence[Comparison], policy: GatePolicy) -> Verdict:
    """Decide upon a candidate: it must beat every other with the confidence asked for, and be worse in no finding for certain.

    On the monitoring sample, which is small and shows few positives, it need not be better; but it must not be worse for certain.
    """
    if all(comparison.monitoring for comparison in comparisons):
        return Verdict(False, "it was compared with nothing")
    for comparison in comparisons:
        if reason := (_explain_worse if comparison.monitoring else _explain_not_better)(comparison, policy):
            return Verdict(False, reason)
    told = [comparison for comparison in comparisons if not math.isnan(comparison.candidate - comparison.other)]
    return Verdict(True, "; ".join(_describe_comparison(comparison) for comparison in told))


def _explain_worse(comparison: Comparison, policy: GatePolicy) -> str:
    """Of the monitoring sample: nothing is certain of fewer patients than the gate asks for."""
    if comparison.patients < policy.min_patients:
        return ""
    if comparison.worse:
        return f"worse than {comparison.against} in {', '.join(comparison.worse)}; {_describe_comparison(comparison)}"
    return f"worse than {comparison.against} for certain; {_describe_comparison(comparison)}" if comparison.upper < 0 else ""


def _explain_not_better(comparison: Comparison, policy: GatePolicy) -> str:
    if comparison.patients < policy.min_patients:
        return (
            f"{comparison.patients} patients to compare it with {comparison.against} are too few;"
            f" {policy.min_patients} are asked for"
        )
    if math.isnan(comparison.candidate) or math.isnan(comparison.other):
        return f"no finding has both kinds among the cases on which it could be compared with {comparison.against}"
    if comparison.worse:
        return f"worse than {comparison.against} in {', '.join(comparison.worse)}; {_describe_comparison(comparison)}"
    if comparison.candidate <= comparison.other or comparison.better < policy.min_confidence:
        return f"not better than {comparison.against} for certain; {_describe_comparison(comparison)}"
    return ""


def _describe_comparison(comparison: Comparison) -> str:
    return (
        f"mean AUC {comparison.candidate:.3f} against {comparison.other:.3f} of {comparison.against}"
        f" (difference {comparison.lower:+.3f} to {comparison.upper:+.3f}, not worse in {comparison.better:.0%} of resamples,"
        f" {comparison.cases} {'monitoring ' if comparison.monitoring else ''}cases of {comparison.patients} patients)"
    )


def backoff(attempts: int, *, base_seconds: float, cap_seconds: float, jitter: float) -> float:
    """Full jitter: a uniform share `chance` (0..1) of min(cap, base * 2^attempts), seconds; never below a tenth of it."""
    ceiling = min(cap_seconds, base_seconds * 2.0 ** min(attempts, 30))
    return ceiling * max(0.1, jitter)
