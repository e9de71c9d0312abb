"""What the steps need of the catalog about studies: images, scores, reports. Parts of `ports.Transaction`.

What is asked of one study and of many has two names, `find` and `find_of`: a batch is one statement, not one for each study.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from pipeline.domain import (
    Header,
    Prediction,
    Report,
    Scores,
    Sender,
    StoredFile,
    StoredInstance,
    Study,
    StudyState,
)


class Studies(Protocol):
    """Patients, studies, series and instances."""

    def find_instance(self, sop_instance_uid: str) -> StoredInstance | None:
        """Return the instance, or None."""

    def add_instance(self, header: Header, file: StoredFile, sender: Sender, *, opens_study: bool) -> None:
        """Insert the instance; insert patient, study and series where new; touch `last_received_at`.

        A new study starts ARRIVING. `opens_study` puts a known one back there too and clears its reason; without it a known
        study's state stays. The released mark is cleared either way.
        """

    def find(self, study_instance_uid: str) -> Study | None:
        """Return the study, or None."""

    def lock(self, study_instance_uids: Collection[str]) -> dict[str, Study]:
        """Return the studies by UID. No other transaction changes one of them before this one ends.

        Whoever holds several takes them in the same order, and so nobody waits for one who waits for him.
        """

    def instances(self, study_instance_uid: str) -> list[StoredInstance]:
        """Return all instances of the study in order of series number, instance number, SOPInstanceUID."""

    def instances_of(self, study_instance_uids: Collection[str]) -> dict[str, list[StoredInstance]]:
        """Return StudyInstanceUID -> what `instances` returns, of those studies that the catalog knows."""

    def highest_patient_number(self) -> int:
        """Return the highest number that a patient has: they are numbered from 1 as they come."""

    def label_candidates(
        self,
        version: int,
        *,
        request_expiry_days: float,
        patients: Collection[int] | None = None,
        among: Collection[str] | None = None,
    ) -> dict[str, str]:
        """Return StudyInstanceUID -> patient key, by UID, of the scored studies that may be asked for.

        They have predictions of this version and were not asked for. Left out is every study of a patient of whom any study has a
        label, withdrawn or not, was asked for in the last `request_expiry_days` days, or was ever asked for to measure with. Only
        studies of the patients with these numbers, only those with these UIDs, where they are given.
        """

    def accession_numbers(self, study_instance_uids: Collection[str]) -> dict[str, str]:
        """Return StudyInstanceUID -> accession number of those studies that the catalog knows."""

    def uids_by_accession_number(self, accession_numbers: Collection[str]) -> dict[str, list[str]]:
        """Return accession number -> StudyInstanceUIDs, in order, of the studies that have one of these."""

    def newest_complete(self, *, limit: int) -> list[str]:
        """Return the StudyInstanceUIDs of the studies that arrived last and are complete, newest first."""

    def highest_study_number(self) -> int:
        """Return the highest number that a study has: they are numbered from 1 as they come."""

    def uids_by_number(self, numbers: range) -> list[str]:
        """Return the StudyInstanceUIDs of the studies with these numbers, the last first."""

    def unscored(self, version: int, *, limit: int, numbers: range | None = None) -> list[str]:
        """Return the StudyInstanceUIDs of studies without predictions of this version that came to their end, newest first.

        The end is a report in the archive, or one that the archive refused; or scores that nobody is told of, where a backfill
        brought the study. Those with a score job that waits, runs or is in quarantine are left out, and those whose number is
        not among `numbers` where it is given.
        """

    def document_uids(self) -> list[str]:
        """Return the SOPInstanceUIDs of all structured reports and key object selections, in order of arrival."""

    def mark_released(self, study_instance_uids: Sequence[str]) -> None:
        """Mark arriving studies: the association that carried them was released in good order."""

    def stable_studies(self, *, seconds: float, released: bool, limit: int) -> list[str]:
        """Return arriving studies with nothing new for `seconds`; with `released`, those marked by release() too. Oldest first."""

    def arriving_studies(self, *, limit: int) -> list[tuple[str, int]]:
        """Return arriving studies with the number of their instances."""

    def put_state(self, study_instance_uid: str, state: StudyState, *, reason: str = "") -> None:
        """Write the study's state and reason."""

    def put_states(self, study_instance_uids: Collection[str], state: StudyState) -> None:
        """Write the state of several studies, without a reason."""

    def next_revisions(self, study_instance_uids: Collection[str]) -> dict[str, int]:
        """Raise the revision of each study by one and return it (1 for the first)."""


class ScoreRows(Protocol):
    """Scores of images and predictions of studies."""

    def image_scores(self, study_instance_uid: str, version: int) -> dict[str, Scores]:
        """Return SOPInstanceUID -> float32 [14] of the images that this version has scored."""

    def image_scores_of(self, study_instance_uids: Collection[str], version: int) -> dict[str, dict[str, Scores]]:
        """Return StudyInstanceUID -> what `image_scores` returns, of those studies of which it has scored any."""

    def add_image_scores(self, version: int, scores: Mapping[str, Scores]) -> None:
        """Insert or replace the scores of images: SOPInstanceUID -> float32 [14]."""

    def put_predictions(self, version: int, predictions: Mapping[str, Sequence[Prediction]], revisions: Mapping[str, int]) -> None:
        """Insert or replace the predictions of this version: StudyInstanceUID -> its predictions, and -> its revision."""

    def predictions(self, study_instance_uid: str, version: int) -> list[Prediction]:
        """Return the study's predictions of this version in the order of FINDINGS; [] where there are none."""

    def predictions_of(self, study_instance_uids: Collection[str], version: int) -> dict[str, list[Prediction]]:
        """Return StudyInstanceUID -> what `predictions` returns, of those studies that have any."""

    def probabilities(self, study_instance_uids: Collection[str], version: int) -> dict[str, Scores]:
        """Return StudyInstanceUID -> float32 [14] of the studies that have predictions of this version."""


class Reports(Protocol):
    """SR instances."""

    def find(self, sop_instance_uid: str) -> Report | None:
        """Return the report, or None."""

    def latest(self, study_instance_uid: str) -> Report | None:
        """Return the report of the study that was opened last, or None."""

    def latest_of(self, study_instance_uids: Collection[str]) -> dict[str, Report]:
        """Return StudyInstanceUID -> what `latest` returns, of those studies that have a report."""

    def ensure_pending(self, report: Report) -> Report:
        """Insert a pending report; where it exists already, return it as it is."""

    def mark_built(self, sop_instance_uid: str, file: StoredFile) -> None:
        """Record the bytes."""

    def mark_sent(self, sop_instance_uid: str, status: str) -> None:
        """Record that the archive accepted it, now."""

    def mark_refused(self, sop_instance_uid: str, status: str) -> None:
        """Record that the archive refused it for good."""
