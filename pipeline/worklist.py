"""worklist: what is known of the archive and its labels -> the studies to label next, and why. What is asked for is kept."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline import rules
from pipeline.acquisition import Candidates, Experience, Pick, Reason, SelectionPolicy, select
from pipeline.consensus import PRESENT, LabelPolicy, resolve
from pipeline.domain import FINDINGS, AuditEvent, Header, Label, ModelVersion, Request, StoredInstance, VersionState
from pipeline.errors import NoWeights, TryAgain
from pipeline.ports.outside import Catalog, Transaction


@dataclass(frozen=True, slots=True, kw_only=True)
class WorklistPolicy:
    """`[worklist]`, `[labels]` and `[study]` of the configuration."""

    selection: SelectionPolicy
    labels: LabelPolicy
    chest: rules.ChestPolicy
    patients: int  # of a larger archive so many, drawn by lot, are looked at for each list
    ask_again_days: float  # what nobody has read for so long keeps its patient's other studies off the list no more
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, and what a reader needs to find the study."""

    request: Request
    accession_number: str
    view: str
    scanner: str


def ask(*, count: int, catalog: Catalog, policy: WorklistPolicy, dry_run: bool = False) -> list[Asked]:
    """Choose studies to label next, one a patient, and keep that they were asked for; with `dry_run` nothing is kept.

    Left out are patients of whom any study is labelled or was asked for, not too long ago. Fewer than `count` where fewer patients
    are left.
    NoWeights where no version serves, TryAgain where another list, or a label, came in between.
    """
    with catalog.read() as tx:
        serving = _serving(tx)
        archive = _Archive.of(tx, serving, policy)
        picks = select(
            archive.candidates,
            archive.experience,
            policy.selection,
            count=count,
            seed=policy.seed + archive.asked,  # another list, another lot
        )
        asked = [archive.asked_for(pick, serving, tx) for pick in picks]
    if asked and not dry_run:
        _keep([one.request for one in asked], serving, catalog, policy)
    return asked


def still_open(*, catalog: Catalog, chest: rules.ChestPolicy) -> list[Asked]:
    """Return what was asked for and has no label yet, oldest first."""
    with catalog.read() as tx:
        requests = {request.study_instance_uid: request for request in tx.requests.all()}
        read = {label.study_instance_uid for label in tx.labels.of_studies(requests)}
        waiting = [request for uid, request in requests.items() if uid not in read]
        films = _films(tx, [request.study_instance_uid for request in waiting], chest)
        numbers = tx.studies.accession_numbers([request.study_instance_uid for request in waiting])
    found = ((request, films.get(request.study_instance_uid)) for request in waiting)
    return [
        Asked(request, numbers[request.study_instance_uid], _view(film), _scanner(film)) if film else Asked(request, "", "", "")
        for request, film in found
    ]


def _serving(tx: Transaction) -> ModelVersion:
    serving = tx.versions.serving()
    if serving is None:
        raise NoWeights("no model version serves", hint="radclipd model import FILE, or radclipd model fetch TAG")
    return serving


def _keep(requests: Sequence[Request], serving: ModelVersion, catalog: Catalog, policy: WorklistPolicy) -> None:
    with catalog.begin() as tx:
        tx.requests.hold()
        studies = {request.study_instance_uid for request in requests}
        if studies != tx.studies.unread(serving.number, ask_again_days=policy.ask_again_days, among=studies).keys():
            raise TryAgain("another list was made, or a label came in, in between", hint="run it again")
        tx.requests.append(requests)
        reasons = [request.asked_because for request in requests]
        counted = ", ".join(f"{reasons.count(reason)} {reason}" for reason in dict.fromkeys(reasons))
        tx.audit(AuditEvent("worklist", "done", f"version {serving.number}", f"{len(requests)} studies asked for: {counted}"))


@dataclass(frozen=True)
class _Archive:
    """What a list is chosen from."""

    studies: Sequence[str]
    films: Sequence[Header]  # one of each study
    candidates: Candidates
    experience: Experience
    share: float  # of the patients, that were looked at
    asked: int  # studies asked for before

    @classmethod
    def of(cls, tx: Transaction, serving: ModelVersion, policy: WorklistPolicy) -> _Archive:
        """Read it."""
        requests = tx.requests.all()
        drawn, share = _drawn(tx.studies.patients(), policy.patients, np.random.default_rng([policy.seed, len(requests)]))
        patients = tx.studies.unread(serving.number, ask_again_days=policy.ask_again_days, patients=drawn)
        films = _films(tx, patients, policy.chest)
        studies = [uid for uid in patients if uid in films]
        strata = [f"{_view(films[uid])} {_scanner(films[uid])}" for uid in studies]
        return cls(
            studies=studies,
            films=[films[uid] for uid in studies],
            candidates=Candidates(
                patient=np.array([patients[uid] for uid in studies], dtype=np.str_),
                stratum=np.array(strata, dtype=np.str_),
                scores=_scores(tx, studies, serving.number),
                other=_other(tx, studies, serving),
            ),
            experience=_experience(tx, requests, serving, policy),
            share=share,
            asked=len(requests),
        )

    def asked_for(self, pick: Pick, serving: ModelVersion, tx: Transaction) -> Asked:
        """Return the request for a pick."""
        film = self.films[pick.row]
        request = Request(
            study_instance_uid=self.studies[pick.row],
            asked_because=pick.reason.value,
            finding=pick.finding,
            detail=self._words(pick),
            selection_probability=pick.probability * (self.share if pick.reason is Reason.MONITORING else 1.0),
            version=serving.number,
            asked_at=tx.now(),
        )
        return Asked(request, film.accession_number, _view(film), _scanner(film))

    def _words(self, pick: Pick) -> str:
        if pick.reason is Reason.MONITORING:
            return "by lot, to measure with; never learnt from"
        if pick.reason is Reason.COVERAGE:
            return "unlike everything that was read"
        if pick.reason is Reason.TYPICALITY:
            return "typical of studies of which few were read"
        if pick.reason is Reason.UNCERTAINTY:
            return "the version in service is undecided"
        column = FINDINGS.index(pick.finding)
        score, other = self.candidates.scores[pick.row, column], self.candidates.other[pick.row, column]
        if pick.reason is Reason.DISAGREEMENT:
            return f"{pick.finding}: {score:.2f}, by zero-shot {other:.2f}"
        return f"{pick.finding}: {self.experience.positives[column]:.0f} positives known, score {score:.2f} is among the highest"


def _drawn(patients: int, limit: int, chance: np.random.Generator) -> tuple[Collection[int] | None, float]:
    """The numbers of the patients that are looked at, drawn by lot, and which share of all that is; None where it is everyone.

    The lot is drawn before anybody is looked at, so whoever may be asked for had this very chance to be among them.
    """
    if patients <= limit:
        return None, 1.0
    return [int(number) + 1 for number in chance.choice(patients, size=limit, replace=False)], limit / patients


def _films(tx: Transaction, studies: Collection[str], chest: rules.ChestPolicy) -> dict[str, Header]:
    """The first frontal film of each study that has one."""
    found: dict[str, list[StoredInstance]] = tx.studies.instances_of(studies)
    chosen = ((uid, rules.choose_images(instances, chest).images) for uid, instances in found.items())
    return {uid: images[0].header for uid, images in chosen if images}


def _view(film: Header) -> str:
    return film.view_position.upper().strip() or film.view_code_meaning or "view not stated"


def _scanner(film: Header) -> str:
    return film.manufacturer_model_name or film.station_name or "scanner not stated"


def _scores(tx: Transaction, studies: Sequence[str], version: int) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """float64 [N, 14]; NaN in the rows of studies that the version has not scored."""
    found = tx.scores.probabilities(studies, version)
    nothing = np.full(len(FINDINGS), np.nan)
    return np.array([found.get(uid, nothing) for uid in studies], dtype=np.float64).reshape(len(studies), len(FINDINGS))


def _other(tx: Transaction, studies: Sequence[str], serving: ModelVersion) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """The scores of the newest zero-shot version on the base of the serving one: one that has learnt no label."""
    unlearnt = [
        version.number
        for version in tx.versions.all()
        if not version.label_fingerprint
        and version.base == serving.base
        and version.number != serving.number
        and version.state is not VersionState.REJECTED
    ]
    return _scores(tx, studies, unlearnt[-1] if unlearnt else 0)


def _experience(tx: Transaction, requests: Sequence[Request], serving: ModelVersion, policy: WorklistPolicy) -> Experience:
    statements: Sequence[Label] = tx.labels.all()
    resolution = resolve(statements, policy.labels)
    targets = resolution.targets(resolution.studies) == PRESENT
    monitored = {request.study_instance_uid for request in requests if request.asked_because == Reason.MONITORING}
    taught = [uid not in monitored for uid in resolution.studies]
    shown = dict(zip(resolution.studies, targets, strict=True))
    mined, found = np.zeros(len(FINDINGS)), np.zeros(len(FINDINGS))
    for request in requests:
        if request.asked_because == Reason.POSITIVES and request.study_instance_uid in shown:
            column = FINDINGS.index(request.finding)
            mined[column] += 1
            found[column] += shown[request.study_instance_uid][column]
    read = sorted({*resolution.studies, *(request.study_instance_uid for request in requests)})
    scores = _scores(tx, read, serving.number)
    return Experience(
        positives=targets[taught].sum(axis=0).astype(np.float64),
        mined=mined,
        found=found,
        read=scores[np.isfinite(scores).all(axis=1)],
    )
