"""Ports of studies, scores and reports: parts of `services.Transaction`.

A query of one study `x` has a form `x_of` for many studies: one SQL statement for a batch, not one per study.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Protocol

from pipeline.domain import (
    Conflict,
    ConflictResolution,
    Header,
    Prediction,
    ReferenceDistribution,
    Report,
    Revision,
    Scores,
    Sender,
    StoredFile,
    StoredInstance,
    Study,
    StudyState,
    VisibleObject,
    WithheldReason,
)
from pipeline.thumbnails import ImageReference


class Studies(Protocol):
    """Patients, studies, series and instances."""

    def find_instance(self, sop_instance_uid: str) -> StoredInstance | None:
        """Return the instance, or None."""

    def add_instance(self, header: Header, file: StoredFile, sender: Sender, *, opens_study: bool) -> None:
        """Insert the instance; insert patient, study and series where new; update `last_received_at`.

        A new study is ARRIVING. `opens_study` returns a known study to ARRIVING too and clears its reason; without it a known
        study's state stays. The released mark is cleared either way.
        """

    def find(self, study_instance_uid: str) -> Study | None:
        """Return the study, or None."""

    def lock(self, study_instance_uids: Collection[str]) -> dict[str, Study]:
        """Lock the studies until this transaction ends; return them by UID. All callers lock in one order, against deadlocks."""

    def instances(self, study_instance_uid: str) -> list[StoredInstance]:
        """Return all instances of the study in order of series number, instance number, SOPInstanceUID."""

    def instances_of(self, study_instance_uids: Collection[str]) -> dict[str, list[StoredInstance]]:
        """Return StudyInstanceUID -> what `instances` returns, of those studies that the catalog knows."""

    def patient_keys(self, study_instance_uids: Collection[str]) -> dict[str, str]:
        """Return StudyInstanceUID -> patient key of those studies that the catalog knows."""

    def highest_patient_number(self) -> int:
        """Return the highest patient number. Patients are numbered from 1 in order of arrival."""

    def label_candidates(
        self,
        version: int,
        *,
        request_expiry_days: float,
        patients: Collection[int] | None = None,
        among: Collection[str] | None = None,
    ) -> dict[str, str]:
        """Return StudyInstanceUID -> patient key, in order of UID, of the studies that the worklist may request.

        They have predictions of this version and no request. Excluded are all studies of a patient with a label (revoked or not),
        with a request of the last `request_expiry_days` days, or with a request for monitoring. `patients`, `among`: only studies
        of the patients with these numbers, only studies with these UIDs.
        """

    def accession_numbers(self, study_instance_uids: Collection[str]) -> dict[str, str]:
        """Return StudyInstanceUID -> accession number of those studies that the catalog knows."""

    def uids_by_accession_number(self, accession_numbers: Collection[str]) -> dict[str, list[str]]:
        """Return accession number -> StudyInstanceUIDs, in order, of the studies that have one of these."""

    def newest_complete(self, *, limit: int) -> list[str]:
        """Return the StudyInstanceUIDs of the `limit` newest complete studies, newest first."""

    def newest_files(self, *, limit: int) -> list[StoredFile]:
        """Return the files of the `limit` newest instances, newest first."""

    def earlier_studies(self, study_instance_uid: str, *, limit: int) -> list[tuple[str, str]]:
        """Return StudyInstanceUID and study date of the patient's studies of earlier days, the latest first."""

    def highest_study_number(self) -> int:
        """Return the highest study number. Studies are numbered from 1 in order of arrival."""

    def uids_by_number(self, numbers: range) -> list[str]:
        """Return the StudyInstanceUIDs of the studies with these numbers, highest first."""

    def unscored(self, version: int, *, limit: int, numbers: range | None = None) -> list[str]:
        """Return the StudyInstanceUIDs of finished studies without predictions of this version, newest first.

        Finished: the archive has accepted or refused the report, or the study is backfilled, scored and not reported. Studies with
        a score job that waits, runs or is in quarantine are excluded. `numbers`: only studies with these numbers.
        """

    def document_uids(self) -> list[str]:
        """Return the SOPInstanceUIDs of all structured reports and key object selections, in order of arrival."""

    def mark_released(self, study_instance_uids: Sequence[str]) -> None:
        """Mark arriving studies as released: the association that carried them ended with A-RELEASE (PS3.8 7.2)."""

    def stable_studies(self, *, seconds: float, released: bool, limit: int) -> list[str]:
        """Return arriving studies without a new instance for `seconds`, with `released` also the released ones. Oldest first."""

    def arriving_studies(self, *, limit: int) -> list[tuple[str, int]]:
        """Return the StudyInstanceUIDs of arriving studies, each with the number of its instances."""

    def follow_clock(self) -> int:
        """Let arriving studies that have received their last instance in the future have received it now; return their number."""

    def put_state(self, study_instance_uid: str, state: StudyState, *, reason: str = "") -> None:
        """Write the study's state and reason."""

    def put_states(self, study_instance_uids: Collection[str], state: StudyState) -> None:
        """Write the state of several studies, without a reason."""

    def draw_key(self) -> bytes:
        """Return the key of the draws by patient: random, made with the first draw, secret, and never changed."""

    def put_silent(self, study_instance_uids: Collection[str], *, silent: bool) -> None:
        """Write of several studies whether they belong to the silent share."""

    def next_revisions(self, study_instance_uids: Collection[str]) -> dict[str, int]:
        """Increment the revision of each study; return StudyInstanceUID -> the new revision, 1 for the first."""


class Revisions(Protocol):
    """Other files of known instances: revisions, which take the place of the stored file, and conflicts, kept beside it."""

    def add(self, revision: Revision, *, opens_study: bool) -> bool:
        """Let the file take the place of the stored one, which stays listed as a former file; return whether the patient changed.

        Study, series and patient follow where the header differs from the one before. Scores, predictions and labels stay. An
        instance of another study moves there; `opens_study` as `Studies.add_instance`.
        """

    def mark_stored(self, sop_instance_uid: str) -> None:
        """Mark the file of the instance, deleted before, as stored again."""

    def add_conflict(self, header: Header, file: StoredFile, sender: Sender) -> None:
        """Insert an open conflict."""

    def conflicts(self, sop_instance_uid: str = "", *, limit: int = 1000) -> list[Conflict]:
        """Return the open conflicts, of one instance or of all, the oldest first."""

    def find_conflict(self, number: int) -> Conflict | None:
        """Return the conflict, or None."""

    def resolve_conflict(self, number: int, resolution: ConflictResolution) -> None:
        """Record the decision; the header of the received file is forgotten."""

    def count_conflicts(self) -> int:
        """Return the number of open conflicts."""


class ScoreRows(Protocol):
    """Scores of images and predictions of studies, by version."""

    def image_scores(self, study_instance_uid: str, version: int) -> dict[str, Scores]:
        """Return SOPInstanceUID -> float32 [14] of the images that this version has scored."""

    def image_scores_of(self, study_instance_uids: Collection[str], version: int) -> dict[str, dict[str, Scores]]:
        """Return StudyInstanceUID -> what `image_scores` returns, of those studies of which it has scored any."""

    def remove_image_scores(self, sop_instance_uid: str) -> None:
        """Remove the scores of an image by every version, and its thumbnail: its pixels are others now."""

    def add_image_scores(self, version: int, scores: Mapping[str, Scores]) -> None:
        """Insert or replace the scores of images: SOPInstanceUID -> float32 [14]."""

    def put_predictions(self, version: int, predictions: Mapping[str, Sequence[Prediction]], revisions: Mapping[str, int]) -> None:
        """Insert or replace the predictions of this version. Both mappings are by StudyInstanceUID."""

    def predictions(self, study_instance_uid: str, version: int) -> list[Prediction]:
        """Return the study's predictions of this version in the order of FINDINGS; [] where there are none."""

    def predictions_of(self, study_instance_uids: Collection[str], version: int) -> dict[str, list[Prediction]]:
        """Return StudyInstanceUID -> what `predictions` returns, of those studies that have any."""

    def without_reference(self, version: int, *, limit: int) -> list[str]:
        """Return the StudyInstanceUIDs, newest first, whose newest predictions are of this version and lack a reference."""

    def count_scored(self, version: int, *, at_most: int) -> int:
        """Return the number of studies with predictions of this version, counted up to `at_most`."""

    def newest_scored(self, version: int, *, limit: int) -> list[str]:
        """Return the StudyInstanceUIDs of the newest studies with predictions of this version, newest first."""

    def study_scores(self, study_instance_uids: Collection[str], version: int) -> dict[str, Scores]:
        """Return StudyInstanceUID -> float32 [14] of the studies that have predictions of this version."""


class Thumbnails(Protocol):
    """Thumbnails of images, the reference, and the distance of each image from the reference: see `pipeline.thumbnails`."""

    def add(self, thumbnails: Mapping[str, bytes]) -> None:
        """Insert SOPInstanceUID -> thumbnail; an image with a thumbnail keeps it."""

    def newest(self, *, limit: int) -> list[bytes]:
        """Return the thumbnails of the newest images."""

    def reference(self) -> ImageReference | None:
        """Return the reference, or None where none was made."""

    def add_reference(self, reference: ImageReference) -> None:
        """Store the reference. There is one for good."""

    def unmeasured(self, *, limit: int) -> dict[str, bytes]:
        """Return SOPInstanceUID -> thumbnail of images without a distance, newest first."""

    def put_distances(self, distances: Mapping[str, float]) -> None:
        """Write SOPInstanceUID -> distance in units of the limit."""

    def unusable_among(self, sop_instance_uids: Collection[str]) -> set[str]:
        """Return those of these images that are farther than the limit."""


class References(Protocol):
    """Reference distributions of zero-shot scores. Append-only."""

    def lock(self) -> None:
        """Let no other transaction add a distribution until this one ends."""

    def current_number(self, version: int) -> int | None:
        """Return the number of the version's newest distribution, or None."""

    def find(self, number: int) -> ReferenceDistribution | None:
        """Return the distribution, or None."""

    def next_number(self) -> int:
        """Return the number of the next distribution."""

    def add(self, reference: ReferenceDistribution) -> None:
        """Insert a distribution."""


class ReportStops(Protocol):
    """Stops of reporting, for all findings ("") or one."""

    def current(self) -> dict[str, str]:
        """Return finding, or "" for all, -> the reason, of the stops that hold now."""

    def stop(self, finding: str, *, reason: str, source: str) -> None:
        """Insert a stop."""

    def resume(self, finding: str) -> None:
        """End the stop of this finding, or of all findings; no effect where there is none."""


class Reports(Protocol):
    """SR instances and the visible objects that accompany them."""

    def find(self, sop_instance_uid: str) -> Report | None:
        """Return the report, or None."""

    def latest(self, study_instance_uid: str) -> Report | None:
        """Return the newest report of the study, or None."""

    def latest_of(self, study_instance_uids: Collection[str]) -> dict[str, Report]:
        """Return StudyInstanceUID -> what `latest` returns, of those studies that have a report."""

    def studies_reported_by(self, version: int, *, after: str, limit: int) -> list[str]:
        """Return StudyInstanceUIDs with a report of this version, in order, those behind `after`."""

    def studies_withheld(self, *, since: datetime, after: str, limit: int) -> list[str]:
        """Return StudyInstanceUIDs with a report created since then and kept by `report.deliver`, in order, behind `after`."""

    def first_sent(self, study_instance_uids: Collection[str]) -> dict[str, datetime]:
        """Return StudyInstanceUID -> the time at which the archive first accepted a report of the study, or a visible object.

        Only of studies of which it has accepted one.
        """

    def ensure_pending(self, report: Report) -> Report:
        """Insert a pending report; return it, or the existing report of this UID unchanged."""

    def find_visible(self, sop_instance_uid: str) -> VisibleObject | None:
        """Return the visible object, or None."""

    def visible_objects(self, report: str) -> list[VisibleObject]:
        """Return the visible objects of the report with this SOPInstanceUID, in the order in which they were inserted."""

    def ensure_visible(self, visible: VisibleObject) -> VisibleObject:
        """Insert a pending visible object; return it, or the existing one of this UID unchanged."""

    def mark_built(self, sop_instance_uid: str, file: StoredFile) -> None:
        """Set BUILT with the file. This and the next two: of a report or of a visible object."""

    def mark_sent(self, sop_instance_uid: str, status: str) -> None:
        """Set SENT now, with the archive's answer."""

    def mark_refused(self, sop_instance_uid: str, status: str) -> None:
        """Set REFUSED, with the archive's answer."""

    def put_withheld(self, sop_instance_uid: str, reason: WithheldReason | None) -> None:
        """Write why the report is kept and not sent; None: it is sent, or will be."""
