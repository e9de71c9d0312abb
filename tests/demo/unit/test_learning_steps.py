"""Learning steps of the demonstration in unusual cases: rejected version, nothing to learn, a broken chain of reports."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import FileDataset
from rich.console import Console

from adapters.demo import learning_steps
from adapters.demo.state import DemoFailed, DemoOptions, DemoState, SentStudy
from adapters.simulator.truth import GroundTruth
from pipeline.domain import FINDINGS
from tests.builders.dicom_files import dx, file_of
from tests.builders.report_of import report_on

CARD = {
    "films": 20,
    "patients": 19,
    "findings": ["Mass"],
    "kept": ["Hernia"],
    "log_loss": {"stage-1": 0.61, "partial": 0.58},
}
LOST = "not better than zero-shot for certain"


@dataclass
class Installed:
    """Stub of an installation: output of a verb and rows of the database."""

    said: str
    made: list[tuple[Any, ...]] = field(default_factory=list)
    asked: list[tuple[str, ...]] = field(default_factory=list)

    def run_verb_with_stderr(self, *words: str) -> tuple[str, str]:
        self.asked.append(words)
        return "", f"some progress\n{self.said}"


class Archive:
    """Stub of an archive with SRs."""

    def __init__(self, *reports: FileDataset) -> None:
        self._reports = [file_of(report) for report in reports]

    def fetch_reports(self, study_instance_uid: str) -> list[bytes]:
        return self._reports


class Scripted(DemoState):
    """Demonstration state with scripted query results."""

    answers: dict[str, list[tuple[Any, ...]]]

    def query_rows(self, sql: str) -> list[tuple[Any, ...]]:
        return next(rows for words, rows in self.answers.items() if words in sql)

    @property
    def text(self) -> str:
        assert isinstance(self.console.file, io.StringIO)
        return self.console.file.getvalue()


def story(tmp_path: Path, **parts: Any) -> Scripted:
    made = Scripted(DemoOptions(), Console(file=io.StringIO(), width=400), tmp_path)
    made.answers = {}
    for name, value in parts.items():
        setattr(made, name, value)
    return made


def test_a_version_rejected_by_the_gate_does_not_serve_and_the_demonstration_continues(tmp_path: Path) -> None:
    installed = Installed(f"rejected (version 2): {LOST}")
    demo = story(tmp_path, radclipd=installed, reader_findings={"1.2": frozenset({"Mass"})})
    demo.answers = {"v_model_versions": [(2, "rejected", json.dumps({"learning": CARD}))]}
    learning_steps.run_learning(demo)
    learning_steps.wait_for_rescoring(demo)
    learning_steps.fetch_successors(demo)
    assert installed.asked == [("learn",)]
    assert demo.promoted_version is None
    assert demo.scores == {}
    assert f"radclipd learn: rejected (version 2): {LOST}" in demo.text
    assert "stage-1 0.610, partial 0.580" in demo.text
    assert "The version that served goes on serving." in demo.text


def test_without_a_learnt_version_none_is_mentioned(tmp_path: Path) -> None:
    demo = story(tmp_path, radclipd=Installed("nothing to learn: too little"), reader_findings={"1.2": frozenset()})
    demo.answers = {"v_model_versions": []}
    learning_steps.run_learning(demo)
    assert demo.promoted_version is None
    assert "learnt from" not in demo.text


def test_without_a_known_truth_nothing_is_labelled_or_learnt(tmp_path: Path) -> None:
    installed = Installed("")
    demo = story(tmp_path, radclipd=installed, sent_studies=[SentStudy(1, "1.2", "a film", None)])
    learning_steps.read_studies(demo)
    learning_steps.run_learning(demo)
    assert installed.asked == []
    assert "Nobody can play the radiologist" in demo.text


def test_the_successor_reports_of_a_promoted_version_are_fetched(tmp_path: Path) -> None:
    film = dx()
    study = film.StudyInstanceUID
    first, second = report_on(film), report_on(film, follows=True)
    demo = story(
        tmp_path,
        archive=Archive(first, second),
        reports={study: file_of(first), "1.2": b""},
        sent_studies=[SentStudy(1, study, "a film", None)],
        promoted_version=2,
    )
    demo.answers = {"v_reports": [(study, second.SOPInstanceUID)]}
    learning_steps.fetch_successors(demo)
    assert "the archive holds 1 SRs of version 2; each names the one that it follows" in demo.text
    assert "decided as before, and so without another SR: 1 of 2" in demo.text
    assert f"follows  {first.SOPInstanceUID}" in demo.text


def test_a_missing_successor_or_one_with_a_wrong_predecessor_fails_the_demonstration(tmp_path: Path) -> None:
    film = dx()
    study = film.StudyInstanceUID
    first, orphan = report_on(film), report_on(film, follows=True)
    del orphan.PredecessorDocumentsSequence
    demo = story(tmp_path, archive=Archive(first, orphan), reports={study: file_of(first)}, promoted_version=2)
    demo.answers = {"v_reports": [(study, orphan.SOPInstanceUID)]}
    with pytest.raises(DemoFailed, match="does not name the one before it"):
        learning_steps.fetch_successors(demo)
    demo.archive = Archive(first)  # type: ignore[assignment]  # only reports are asked for
    with pytest.raises(DemoFailed, match="the archive has no SR"):
        learning_steps.fetch_successors(demo)


@pytest.mark.parametrize(("studies", "sittings"), [(0, []), (1, []), (4, [1]), (60, [20]), (90, [15, 15]), (304, [34, 34, 33])])
def test_a_third_of_the_studies_is_read_in_sessions_of_at_least_one_study_per_finding(studies: int, sittings: list[int]) -> None:
    assert learning_steps.studies_per_session(studies) == sittings
    assert all(count >= len(FINDINGS) for count in sittings[1:])


def test_patients_with_a_labelled_study_are_excluded_from_the_evaluation(tmp_path: Path) -> None:
    truths = [("1.1", "p1"), ("1.2", "p1"), ("1.3", "p2"), ("1.4", None)]
    sent = [SentStudy(n, uid, "", GroundTruth(who, frozenset()) if who else None) for n, (uid, who) in enumerate(truths, 1)]
    demo = story(tmp_path, sent_studies=sent, reader_findings={"1.2": frozenset()})
    assert set(demo.unlabelled_truths) == {"1.3"}
