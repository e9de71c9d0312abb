"""Decisions with a medical or operational meaning, as tables."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest

from pipeline import rules
from pipeline.backoff import backoff_seconds
from pipeline.domain import Header, StoredFile, StoredInstance

DX, CR, SC = rules.DIGITAL_X_RAY_FOR_PRESENTATION, rules.COMPUTED_RADIOGRAPHY, rules.SECONDARY_CAPTURE
POLICY = rules.ChestPolicy()
STRICT = rules.ChestPolicy(no_view_position="ignore", no_body_part="ignore")


def header(sop_class_uid: str = DX, **elements: object) -> Header:
    values: dict[str, object] = {
        "modality": "DX",
        "has_pixels": True,
        "body_part_examined": "CHEST",
        "view_position": "PA",
        "sop_instance_uid": "1.2.3",
        "series_instance_uid": "1.2",
        "study_instance_uid": "1",
        "transfer_syntax_uid": "1.2.840.10008.1.2.1",
    }
    return Header(sop_class_uid=sop_class_uid, **{**values, **elements})  # type: ignore[arg-type]  # a row of a table


@pytest.mark.parametrize(
    ("instance", "policy", "reason"),
    [
        (header(), STRICT, None),
        (header(view_position="AP"), STRICT, None),
        (header(CR, modality="CR", view_position="ap "), STRICT, None),
        (header(view_position="LL"), POLICY, "lateral view"),
        (header(view_position="LLD"), POLICY, "view that is not frontal"),
        (header(view_position="", view_code_meaning="postero-anterior"), STRICT, None),
        (header(view_position="", view_code_meaning="left lateral"), POLICY, "lateral view"),
        (header(view_position="", series_description="W Chest Lat."), POLICY, "lateral view"),
        (header(view_position="", series_description="CHEST LAT"), POLICY, "lateral view"),
        (header(view_position="", series_description="CHEST_PA"), STRICT, None),
        (header(view_position=""), POLICY, None),
        (header(view_position=""), STRICT, "view not stated"),
        (header(body_part_examined="HAND"), POLICY, "not the chest"),
        (header(body_part_examined="CHEST_ABDOMEN"), POLICY, "not the chest"),
        (header(body_part_examined="", anatomic_region_meaning="Thorax"), STRICT, None),
        (header(body_part_examined="", study_description="XR chest 1 view"), STRICT, None),
        (header(body_part_examined=""), POLICY, None),
        (header(body_part_examined=""), STRICT, "body part not stated"),
        (header(has_pixels=False, rows=2500), POLICY, None),
        (header(has_pixels=False), POLICY, "no image"),
        (header(number_of_frames=3), POLICY, "more than one frame"),
        (header(rules.DIGITAL_X_RAY_FOR_PROCESSING), POLICY, "raw image for processing"),
        (header(rules.DIGITAL_X_RAY_FOR_PROCESSING), rules.ChestPolicy(for_processing="score"), None),
        (header(SC, modality="DX"), POLICY, None),
        (header(SC, modality="OT"), POLICY, "secondary capture that is no radiograph"),
        (header(rules.STRUCTURED_REPORT_FAMILY + "34"), POLICY, "structured report"),
        (header(rules.KEY_OBJECT_SELECTION), POLICY, "key object selection"),
        (header(rules.PRESENTATION_STATE_FAMILY + "1"), POLICY, "presentation state"),
        (header("1.2.840.10008.5.1.4.1.1.2"), POLICY, "object that is no radiograph"),
    ],
)
def test_exclusion_reason(instance: Header, policy: rules.ChestPolicy, reason: str | None) -> None:
    assert rules.exclusion_reason(instance, policy) == reason


def test_an_ignored_study_has_its_reason_in_words() -> None:
    headers = [header(view_position="LL"), header(view_position="LL"), header(rules.KEY_OBJECT_SELECTION)]
    stored = [StoredInstance(each, StoredFile("k", "s", 1), datetime.now(UTC)) for each in headers]
    assert rules.choose_images(stored, POLICY).reason == "lateral view (2); key object selection (1)"
    assert rules.choose_images([], POLICY).reason == "no instances"


def test_aggregation_takes_the_maximum_or_the_mean_over_images() -> None:
    scores = [np.array([0.1, 0.9], np.float32), np.array([0.3, 0.1], np.float32)]
    assert rules.aggregate_scores(scores, "max") == pytest.approx([0.3, 0.9])
    assert rules.aggregate_scores(scores, "mean") == pytest.approx([0.2, 0.5])
    assert rules.aggregate_scores(scores, "mean").dtype == np.float32


def test_backoff_grows_with_jitter_and_stays_under_its_cap() -> None:
    waits = [backoff_seconds(n, base_seconds=2, cap_seconds=60, jitter=1.0) for n in range(1, 9)]
    assert waits == [4, 8, 16, 32, 60, 60, 60, 60]
    assert backoff_seconds(3, base_seconds=2, cap_seconds=60, jitter=0.0) == pytest.approx(1.6)
    assert backoff_seconds(4000, base_seconds=2, cap_seconds=60, jitter=1.0) == 60


@pytest.mark.parametrize(
    ("received", "count", "complete"), [(2, 2, True), (3, 2, True), (1, 2, False), (1, None, False), (0, 0, False)]
)
def test_is_complete(received: int, count: int | None, complete: bool) -> None:
    assert rules.is_complete(received, count) is complete


def test_studies_without_a_patient_id_never_share_a_patient() -> None:
    assert header(study_instance_uid="1").patient_key != header(study_instance_uid="2").patient_key
    assert header(patient_id="7", study_instance_uid="1").patient_key == header(patient_id="7", study_instance_uid="2").patient_key
    assert (
        header(patient_id="7", issuer_of_patient_id="A").patient_key != header(patient_id="7", issuer_of_patient_id="B").patient_key
    )
