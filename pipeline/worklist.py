"""worklist: what is known of the archive and its labels -> the studies to label next, and why. What is asked for is kept."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline import rules, versions
from pipeline.acquisition import CandidateStudies, LabelHistory, SelectedStudy, SelectionPolicy, SelectionReason, select_studies
from pipeline.consensus import PRESENT, LabelPolicy, resolve_consensus
from pipeline.domain import FINDINGS, AuditEvent, Header, Label, ModelVersion, Request, StoredInstance, VersionState
from pipeline.errors import TransientError
from pipeline.ports.services import Catalog, Transaction


@dataclass(frozen=True, slots=True, kw_only=True)
class WorklistPolicy:
    """`[worklist]`, `[labels]` and `[study]` of the configuration."""

    selection: SelectionPolicy
    labels: LabelPolicy
    chest: rules.ChestPolicy
    max_patients: int  # of a larger archive so many, drawn by lot, are looked at for each list
    request_expiry_days: float  # what nobody has read for so long keeps its patient's other studies off the list no more
    seed: int = 0


@dataclass(frozen=True, slots=True)
class WorklistEntry:
    """A request, and what a reader needs to find the study."""

    request: Request
    accession_number: str
    view: str
    scanner: str


def make_worklist(*, count: int, catalog: Catalog, policy: WorklistPolicy, dry_run: bool = False) -> list[WorklistEntry]:
    """Choose studies to label next, one a patient, and keep that they were asked for; with `dry_run` nothing is kept.

    Left out are patients of whom any study is labelled or was asked for, not too long ago. Fewer than `count` where fewer patients
    are left.
    NoWeights where no version serves, TransientError where another list, or a label, came in between.
    """
    with catalog.read() as tx:
        serving = versions.require_serving(tx)
        archive = _CandidatePool.load(tx, serving, policy)
        picks = select_studies(
            archive.candidates,
            archive.history,
            policy.selection,
            count=count,
            seed=policy.seed + archive.request_count,  # another list, another lot
        )
        asked = [archive.make_entry(pick, serving, tx) for pick in picks]
    if asked and not dry_run:
        _store_requests([one.request for one in asked], serving, catalog, policy)
    return asked


def list_open_entries(*, catalog: Catalog, chest: rules.ChestPolicy) -> list[WorklistEntry]:
    """Return what was asked for and has no label yet, oldest first."""
    with catalog.read() as tx:
        requests = {request.study_instance_uid: request for request in tx.requests.all()}
        read = {label.study_instance_uid for label in tx.labels.of_studies(requests)}
        waiting = [request for uid, request in requests.items() if uid not in read]
        films = _choose_headers(tx, [request.study_instance_uid for request in waiting], chest)
        numbers = tx.studies.accession_numbers([request.study_instance_uid for request in waiting])
    found = ((request, films.get(request.study_instance_uid)) for request in waiting)
    return [
        WorklistEntry(request, numbers[request.study_instance_uid], _describe_view(film), _describe_scanner(film))
        if film
        else WorklistEntry(request, "", "", "")
        for request, film in found
    ]


def _store_requests(requests: Sequence[Request], serving: ModelVersion, catalog: Catalog, policy: WorklistPolicy) -> None:
    with catalog.begin() as tx:
        tx.requests.lock()
        studies = {request.study_instance_uid for request in requests}
        if (
            studies
            != tx.studies.label_candidates(serving.number, request_expiry_days=policy.request_expiry_days, among=studies).keys()
        ):
            raise TransientError("another list was made, or a label came in, in between", hint="run it again")
        tx.requests.append(requests)
        reasons = [request.selection_reason for request in requests]
        counted = ", ".join(f"{reasons.count(reason)} {reason}" for reason in dict.fromkeys(reasons))
        tx.audit(AuditEvent("worklist", "done", f"version {serving.number}", f"{len(requests)} studies asked for: {counted}"))


@dataclass(frozen=True)
class _CandidatePool:
    """What a list is chosen from."""

    studies: Sequence[str]
    headers: Sequence[Header]  # one of each study
    candidates: CandidateStudies
    history: LabelHistory
    sampled_share: float  # of the patients, that were looked at
    request_count: int  # studies asked for before

    @classmethod
    def load(cls, tx: Transaction, serving: ModelVersion, policy: WorklistPolicy) -> _CandidatePool:
        """Read it."""
        requests = tx.requests.all()
        drawn, share = _draw_patients(
            tx.studies.highest_patient_number(), policy.max_patients, np.random.default_rng([policy.seed, len(requests)])
        )
        patients = tx.studies.label_candidates(serving.number, request_expiry_days=policy.request_expiry_days, patients=drawn)
        films = _choose_headers(tx, patients, policy.chest)
        studies = [uid for uid in patients if uid in films]
        strata = [f"{_describe_view(films[uid])} {_describe_scanner(films[uid])}" for uid in studies]
        return cls(
            studies=studies,
            headers=[films[uid] for uid in studies],
            candidates=CandidateStudies(
                patient=np.array([patients[uid] for uid in studies], dtype=np.str_),
                stratum=np.array(strata, dtype=np.str_),
                scores=_load_scores(tx, studies, serving.number),
                zero_shot_scores=_load_zero_shot_scores(tx, studies, serving),
            ),
            history=_load_history(tx, requests, serving, policy),
            sampled_share=share,
            request_count=len(requests),
        )

    def make_entry(self, pick: SelectedStudy, serving: ModelVersion, tx: Transaction) -> WorklistEntry:
        """Return the request for a pick."""
        film = self.headers[pick.row]
        request = Request(
            study_instance_uid=self.studies[pick.row],
            selection_reason=pick.reason.value,
            finding=pick.finding,
            reason=self._describe_reason(pick),
            selection_probability=pick.probability * (self.sampled_share if pick.reason is SelectionReason.MONITORING else 1.0),
            version=serving.number,
            asked_at=tx.now(),
        )
        return WorklistEntry(request, film.accession_number, _describe_view(film), _describe_scanner(film))

    def _describe_reason(self, pick: SelectedStudy) -> str:
        if pick.reason is SelectionReason.MONITORING:
            return "by lot, to measure with; never learnt from"
        if pick.reason is SelectionReason.COVERAGE:
            return "unlike everything that was read"
        if pick.reason is SelectionReason.UNCERTAINTY:
            return "the version in service is undecided"
        column = FINDINGS.index(pick.finding)
        score, other = self.candidates.scores[pick.row, column], self.candidates.zero_shot_scores[pick.row, column]
        if pick.reason is SelectionReason.DISAGREEMENT:
            return f"{pick.finding}: {score:.2f}, by zero-shot {other:.2f}"
        return f"{pick.finding}: {self.history.positives[column]:.0f} positives known, score {score:.2f} is among the highest"


def _draw_patients(patients: int, limit: int, rng: np.random.Generator) -> tuple[Collection[int] | None, float]:
    """The numbers of the patients that are looked at, drawn by lot, and which share of all that is; None where it is everyone.

    The lot is drawn before anybody is looked at, so whoever may be asked for had this very chance to be among them.
    """
    if patients <= limit:
        return None, 1.0
    return [int(number) + 1 for number in rng.choice(patients, size=limit, replace=False)], limit / patients


def _choose_headers(tx: Transaction, studies: Collection[str], chest: rules.ChestPolicy) -> dict[str, Header]:
    """The first frontal film of each study that has one."""
    found: dict[str, list[StoredInstance]] = tx.studies.instances_of(studies)
    chosen = ((uid, rules.choose_images(instances, chest).images) for uid, instances in found.items())
    return {uid: images[0].header for uid, images in chosen if images}


def _describe_view(header: Header) -> str:
    return header.view_position.upper().strip() or header.view_code_meaning or "view not stated"


def _describe_scanner(header: Header) -> str:
    return header.manufacturer_model_name or header.station_name or "scanner not stated"


def _load_scores(tx: Transaction, studies: Sequence[str], version: int) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """float64 [N, 14]; NaN in the rows of studies that the version has not scored."""
    found = tx.scores.probabilities(studies, version)
    nothing = np.full(len(FINDINGS), np.nan)
    return np.array([found.get(uid, nothing) for uid in studies], dtype=np.float64).reshape(len(studies), len(FINDINGS))


def _load_zero_shot_scores(
    tx: Transaction, studies: Sequence[str], serving: ModelVersion
) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """The scores of the newest zero-shot version on the base of the serving one: one that has learnt no label."""
    unlearnt = [
        version.number
        for version in tx.versions.all()
        if not version.label_fingerprint
        and version.base == serving.base
        and version.number != serving.number
        and version.state is not VersionState.REJECTED
    ]
    return _load_scores(tx, studies, unlearnt[-1] if unlearnt else 0)


def _load_history(tx: Transaction, requests: Sequence[Request], serving: ModelVersion, policy: WorklistPolicy) -> LabelHistory:
    statements: Sequence[Label] = tx.labels.all()
    resolution = resolve_consensus(statements, policy.labels)
    targets = resolution.targets(resolution.studies) == PRESENT
    monitored = {request.study_instance_uid for request in requests if request.selection_reason == SelectionReason.MONITORING}
    taught = [uid not in monitored for uid in resolution.studies]
    shown = dict(zip(resolution.studies, targets, strict=True))
    mined, found = np.zeros(len(FINDINGS)), np.zeros(len(FINDINGS))
    for request in requests:
        if request.selection_reason == SelectionReason.POSITIVES and request.study_instance_uid in shown:
            column = FINDINGS.index(request.finding)
            mined[column] += 1
            found[column] += shown[request.study_instance_uid][column]
    read = sorted({*resolution.studies, *(request.study_instance_uid for request in requests)})
    scores = _load_scores(tx, read, serving.number)
    return LabelHistory(
        positives=targets[taught].sum(axis=0).astype(np.float64),
        searched=mined,
        search_positives=found,
        read_scores=scores[np.isfinite(scores).all(axis=1)],
    )
