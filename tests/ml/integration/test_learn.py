"""Labels to a serving version: a tiny encoder with real tensors, an archive on fakes."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn.metrics import roc_auc_score

from adapters.ml.scorer import ClipScorers, load_scorer
from models.checkpoint_files import HEAD
from pipeline import rules, versions
from pipeline.domain import FINDINGS, LabelExposure, ModelVersion, Scale, VersionState
from pipeline.errors import NoWeights, OutOfResources, PermanentError, StopRequested, WeightsCorrupt, WeightsIncompatible
from pipeline.learn import LearnResult
from pipeline.ports.services import Scorer
from tests.builders import tiny
from tests.builders.lessons import Ward


@pytest.fixture
def ward(tmp_path: Path) -> Ward:
    return Ward(tmp_path)


def loaded(ward: Ward, version: ModelVersion) -> Scorer:
    return load_scorer(version, ward.store.root, device="cpu", batch_size=4, threads=1)


def scores(ward: Ward, version: ModelVersion, uids: list[str]) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return loaded(ward, version).score([ward.image(uid) for uid in uids])


@pytest.mark.parametrize("method", ["auto", "stage-1", "partial"])
def test_a_learnt_finding_is_promoted_and_scored(tmp_path: Path, method: str) -> None:
    ward = Ward(tmp_path, method=method)  # type: ignore[arg-type]  # pytest's parameters are words
    ward.labelled(24)
    learnt = ward.learn()
    assert learnt.result is LearnResult.PROMOTED, learnt.reason
    version = learnt.version
    assert version is not None
    assert (version.number, version.state, version.base) == (2, VersionState.SERVING, ward.zero_shot.base)
    assert [v.state for v in ward.versions()] == [VersionState.RETIRED, VersionState.SERVING]
    assert version.notice == ward.zero_shot.notice == "UNTRAINED"
    assert version.device_uid != ward.zero_shot.device_uid
    unseen = [ward.study(100, "Effusion"), ward.study(101)]
    effusion = scores(ward, version, unseen)[:, FINDINGS.index("Effusion")]
    assert effusion[0] > version.thresholds["Effusion"] > effusion[1]
    measures = version.card["learning"]["measures"]["Effusion"]
    assert measures["auc"] > 0.9
    assert (measures["positives"], measures["negatives"]) == (12, 12)
    assert measures["sensitivity_lower"] <= measures["sensitivity"] <= measures["sensitivity_upper"]
    assert version.scales == dict.fromkeys(FINDINGS, Scale.RANK) | {"Effusion": Scale.BAND}  # twelve positives: no percentage
    fine_tuned = "moved.k" in load_file(ward.store.version_folder(2) / HEAD)
    assert fine_tuned is (version.card["recipe"] == "partial")
    assert bool(version.card["learning"]["training"]) is fine_tuned
    if method != "auto":
        assert version.card["recipe"] == method
    assert set(version.card["learning"]["log_loss"]) == (
        {"text", "stage-1"} if method == "stage-1" else {"text", "stage-1", "partial", "partial-last"}
    )


@pytest.mark.parametrize("method", ["stage-1", "partial"])
def test_findings_that_are_not_learnt_score_as_before(tmp_path: Path, method: str) -> None:
    ward = Ward(tmp_path, method=method)  # type: ignore[arg-type]  # pytest's parameters are words
    ward.labelled(16)
    ward.label(ward.study(50, "Mass"), {"Mass": True})
    version = ward.learn().version
    assert version is not None
    assert version.card["learning"]["findings"] == ["Effusion"]
    others = [column for column, finding in enumerate(FINDINGS) if finding != "Effusion"]
    uids = [f"1.{number}" for number in range(1, 9)]
    before, after = scores(ward, ward.zero_shot, uids), scores(ward, version, uids)
    assert after[:, others] == pytest.approx(before[:, others], abs=1e-5)
    assert version.thresholds.keys() == {"Effusion"}
    assert {version.scales[FINDINGS[column]] for column in others} == {Scale.RANK}


def test_the_same_seed_and_labels_give_the_same_weights(tmp_path: Path) -> None:
    files = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        ward = Ward(tmp_path / name, method="partial")
        ward.labelled(12)
        assert ward.learn().version is not None
        files.append(load_file(ward.store.version_folder(2) / HEAD))
    assert files[0].keys() == files[1].keys()
    for name, tensor in files[0].items():
        assert torch.equal(torch.nan_to_num(tensor.float()), torch.nan_to_num(files[1][name].float())), name


def test_the_same_labels_are_not_learnt_again_unless_forced(ward: Ward) -> None:
    ward.labelled(16)
    first = ward.learn().version
    assert first is not None
    unchanged = ward.learn()
    assert (unchanged.result, unchanged.version and unchanged.version.number) == (LearnResult.UNCHANGED, 2)
    assert len(ward.versions()) == 2
    assert ward.learn(again=True).version is not None
    ward.labelled(2, start=60)
    more = ward.learn()
    assert more.version is not None
    assert more.version.label_fingerprint != first.label_fingerprint


def test_a_later_candidate_is_compared_with_the_serving_version_out_of_fold(ward: Ward) -> None:
    ward.labelled(16)
    assert ward.learn().result is LearnResult.PROMOTED
    same = ward.learn(again=True)  # the same labels and folds: equally good
    assert same.result is LearnResult.REJECTED
    assert "it ranks the cases as version 2 does" in same.reason
    assert same.version is not None
    assert (same.version.state, same.version.reason) == (VersionState.REJECTED, same.reason)
    with ward.catalog.read() as tx:
        serving = tx.versions.serving()
    assert serving is not None
    assert serving.number == 2
    ward.labelled(4, start=60)
    later = ward.learn().version
    assert later is not None
    against = {found["against"]: found for found in later.card["learning"]["comparisons"]}
    assert against["version 2"]["cases"] == against["zero-shot"]["cases"] == 20


def test_a_label_against_everything_else_is_doubted(ward: Ward) -> None:
    ward.labelled(24)
    ward.label(ward.study(90), {"Effusion": True})  # the film shows nothing
    version = ward.learn().version
    assert version is not None
    doubts = version.card["learning"]["doubts"]
    assert doubts[0]["study"] == "1.90"
    assert doubts[0]["probability"] > 0.5
    assert "1.90" not in (ward.store.version_folder(2) / "card.json").read_text()


def test_patients_of_the_monitoring_sample_are_excluded_from_training(ward: Ward) -> None:
    ward.labelled(16)
    uid = ward.study(70, "Effusion", patient="P2")  # another study of this patient was labelled for training
    ward.label(uid, {"Effusion": False}, because=rules.MONITORING)
    version = ward.learn().version
    assert version is not None
    assert version.card["learning"]["films"] == 15
    cases = {case.numpy().tobytes() for case in load_file(ward.store.version_folder(2) / HEAD)["measured.cases"]}
    assert hashlib.sha256(b"1.1").digest() in cases
    assert not {hashlib.sha256(study.encode()).digest() for study in ("1.2", "1.70")} & cases


def test_the_monitoring_sample_measures_every_candidate(ward: Ward) -> None:
    ward.labelled(16)
    for number in range(40, 52):
        ward.label(
            ward.study(number, *(["Effusion"] if number % 2 else [])), {"Effusion": number % 2 == 1}, because=rules.MONITORING
        )
    ward.films.broken = {"1.40"}
    learnt = ward.learn()
    assert learnt.version is not None
    kept = learnt.version.card["learning"]["monitoring"]
    assert (kept["films"], kept["patients"], kept["unreadable"]) == (11, 11, 1)
    assert list(kept["measures"]) == ["Effusion"]
    found = kept["measures"]["Effusion"]
    assert (found["positives"], found["negatives"], found["prevalence"]) == (6, 5, round(6 / 11, 6))
    scored = scores(ward, learnt.version, [f"1.{number}" for number in range(41, 52)])[:, FINDINGS.index("Effusion")]
    assert found["auc"] == roc_auc_score([number % 2 for number in range(41, 52)], scored)
    assert found["sensitivity_lower"] <= found["sensitivity"] <= found["sensitivity_upper"]
    (compared,) = [found for found in learnt.version.card["learning"]["comparisons"] if found["monitoring"]]
    assert (compared["against"], compared["cases"]) == ("zero-shot", 11)
    assert "11 monitoring cases of 11 patients" in learnt.reason
    again = ward.learn(again=True).version
    assert again is not None
    against = [found["against"] for found in again.card["learning"]["comparisons"] if found["monitoring"]]
    assert against == ["zero-shot", "version 2"]


def test_a_candidate_that_fails_on_the_monitoring_sample_does_not_serve(ward: Ward) -> None:
    """The training labels are inverted; the labels of the monitoring sample are right."""
    for start, count, because in ((1, 24, ""), (40, 24, rules.MONITORING)):
        for number in range(start, start + count):
            shows = number % 2 == 1
            ward.label(ward.study(number, *(["Effusion"] * shows)), {"Effusion": shows is bool(because)}, because=because)
    learnt = ward.learn()
    assert learnt.result is LearnResult.REJECTED
    assert "worse than zero-shot for certain" in learnt.reason
    assert "24 monitoring cases" in learnt.reason


@pytest.mark.parametrize(
    "stage", ["labelled images", "unfreezing", "images of the monitoring sample", "measuring on the monitoring sample"]
)
def test_a_round_can_be_stopped_at_every_stage(tmp_path: Path, stage: str) -> None:
    ward = Ward(tmp_path, method="partial")
    ward.labelled(12)
    ward.label(ward.study(40), {"Effusion": False}, because=rules.MONITORING)

    def stop(what: str, done: int, total: int) -> None:
        if what == stage:
            raise StopRequested(what)

    with pytest.raises(StopRequested, match=stage):
        ward.learn(watch=stop)
    assert [version.number for version in ward.versions()] == [1]
    assert [path.name for path in ward.store.root.glob("versions/*")] == ["1"]


@pytest.mark.parametrize("case", ["no labels", "one label", "all positive", "one patient", "noise"])
def test_too_few_labels_give_a_reason_and_no_serving_version(ward: Ward, case: str) -> None:
    match case:
        case "one label":
            ward.label(ward.study(1, "Effusion"), {"Effusion": True})
        case "all positive":
            for number in range(1, 9):
                ward.label(ward.study(number, "Effusion"), {"Effusion": True})
        case "one patient":
            for number in range(1, 13):
                ward.label(ward.study(number, patient="P1"), {"Effusion": number % 2 == 0})
        case "noise":
            for number in range(1, 13):
                ward.label(ward.study(number), {"Effusion": number % 3 == 0})
    learnt = ward.learn()
    assert learnt.reason
    if case == "noise":
        assert learnt.result is LearnResult.REJECTED
        assert "zero-shot" in learnt.reason
    else:
        assert (learnt.result, learnt.version) == (LearnResult.NOTHING, None)
        assert ("Effusion" in learnt.reason) is (case != "no labels")
    with ward.catalog.read() as tx:
        serving = tx.versions.serving()
    assert serving is not None
    assert serving.number == 1


def test_unreadable_instances_are_left_out_and_counted(ward: Ward) -> None:
    ward.labelled(16)
    ward.films.broken = {"1.1", "1.2"}
    version = ward.learn().version
    assert version is not None
    assert (version.card["learning"]["films"], version.card["learning"]["unreadable"]) == (14, 2)
    ward.films.broken = {f"1.{number}" for number in range(1, 17)}
    with pytest.raises(PermanentError, match="16 of 16 labelled images cannot be read"):
        ward.learn(again=True)


def test_manual_promotion_leaves_the_candidate_waiting(ward: Ward) -> None:
    ward.gate = replace(ward.gate, promote="manual")
    ward.labelled(16)
    learnt = ward.learn()
    assert learnt.result is LearnResult.WAITING
    assert [v.state for v in ward.versions()] == [VersionState.SERVING, VersionState.CANDIDATE]


def test_learning_without_a_serving_version_raises_no_weights(ward: Ward) -> None:
    ward.catalog.tables.versions.clear()
    with pytest.raises(NoWeights):
        ward.learn()


def test_a_crash_before_the_commit_leaves_no_version(ward: Ward) -> None:
    ward.labelled(16)
    ward.catalog.fail_next_commit = OutOfResources("the catalog is unreachable")
    with pytest.raises(OutOfResources):
        ward.learn()
    assert [v.number for v in ward.versions()] == [1]
    assert list(ward.store.root.glob(".*.part")) == []
    again = ward.learn()
    assert again.version is not None
    assert loaded(ward, again.version).version.number == 2


DAMAGES = {
    "tampered": WeightsCorrupt,
    "truncated": WeightsCorrupt,
    "missing": NoWeights,
    "other encoder": WeightsIncompatible,
    "other width": WeightsIncompatible,
    "other golden": WeightsIncompatible,
    "older format": WeightsIncompatible,
    "no findings": WeightsIncompatible,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_learnt_version_that_differs_from_its_card_is_refused(tmp_path: Path, damage: str) -> None:
    """Damaged bytes and sound bytes that do not fit raise different errors."""
    ward = Ward(tmp_path, method="partial")
    ward.labelled(12)
    version = ward.learn().version
    assert version is not None
    path = ward.store.version_folder(2) / HEAD
    match damage:
        case "tampered":
            path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
        case "truncated":
            path.write_bytes(path.read_bytes()[:-100])
        case "missing":
            path.unlink()
        case "other golden":
            golden = version.card["moved_golden"]
            version = replace(version, card=version.card | {"moved_golden": golden | {"image": golden["image"][::-1]}})
        case _:
            save_file(changed(load_file(path), damage), path)
            head = {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
            version = replace(version, card=version.card | {"head": head})
    with pytest.raises(DAMAGES[damage]) as refused:
        loaded(ward, version)
    assert refused.value.hint


def test_a_serving_version_with_a_damaged_file_is_replaced_by_the_previous_one(ward: Ward) -> None:
    ward.labelled(12)
    assert ward.learn().result is LearnResult.PROMOTED
    tiny.flip_a_bit_of_the_last_byte(ward.store.version_folder(2) / HEAD)
    scorers = ClipScorers(ward.store.root, device="cpu", batch_size=4, threads=1)
    assert versions.load_serving(catalog=ward.catalog, scorers=scorers).version.number == 1
    first, second = ward.versions()
    assert (first.state, second.state) == (VersionState.SERVING, VersionState.REJECTED)
    assert second.reason.startswith("cannot be loaded, corrupt: ")
    assert ward.catalog.tables.audit[-1].outcome == "failed"


def changed(tensors: dict[str, torch.Tensor], damage: str) -> dict[str, torch.Tensor]:
    """Return a version's tensors as another encoder or another release would write them."""
    match damage:
        case "older format":
            tensors.pop("moved.k")
        case "other encoder":
            tensors.pop(next(name for name in tensors if name.startswith("delta.")))
        case "other width":
            tensors |= {name: torch.cat([tensors[name]] * 2, dim=1) for name in ("directions", "moved.directions")}
        case "no findings":
            tensors |= {name: tensors[name][:-1].clone() for name in ("directions", "scale", "bias")}
    return tensors


def test_a_version_is_measured_on_unexposed_labels_and_waits_for_them(tmp_path: Path) -> None:
    ward = Ward(tmp_path, method="stage-1")
    ward.labelled(16, start=101, exposure=LabelExposure.SEEN)
    ward.labelled(4)
    learnt = ward.learn()
    assert learnt.result is LearnResult.WAITING
    assert "4 patients to compare it with zero-shot are too few; 8 are asked for, so 4 more" in learnt.reason
    version = learnt.version
    assert version is not None
    learning = version.card["learning"]
    counts = [(found["positives"], found["negatives"]) for found in learning["exposed_measures"].values()]
    assert (learning["films"], counts) == (20, [(8, 8)] if "Effusion" in learning["findings"] else [])
    ward.labelled(20, start=5)  # with the four, as many as promote in the first test
    again = ward.learn()
    assert again.result is LearnResult.PROMOTED, again.reason
    assert again.version is not None
    learning = again.version.card["learning"]
    assert (learning["measures"]["Effusion"]["positives"], learning["measures"]["Effusion"]["negatives"]) == (12, 12)
    assert (learning["exposed_measures"]["Effusion"]["positives"], learning["films"]) == (8, 40)


def test_the_weight_of_exposed_labels_reaches_the_head(tmp_path: Path) -> None:
    heads = []
    for name, exposure in (("blind", LabelExposure.NONE), ("seen", LabelExposure.SEEN)):
        (tmp_path / name).mkdir()
        ward = Ward(tmp_path / name, method="stage-1")
        ward.labelled(20)
        ward.label(ward.study(50, "Effusion"), {"Effusion": False}, exposure=exposure)  # a missed one
        version = ward.learn().version
        assert version is not None
        heads.append(load_file(ward.store.version_folder(version.number) / HEAD))
    assert any(not np.array_equal(heads[0][key], heads[1][key]) for key in heads[0] if "fold" not in key)
