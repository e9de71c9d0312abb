"""score: the images of settled studies -> 14 scores each -> the predictions of each study and a report job."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pipeline import rules, versions
from pipeline.domain import (
    AuditEvent,
    Image,
    Job,
    JobKind,
    ModelVersion,
    Prediction,
    ReportState,
    Scores,
    StoredInstance,
)
from pipeline.errors import PixelsUnreadable, RadclipdError
from pipeline.image_ports import ImageReader
from pipeline.ports import Catalog, Scorers, Transaction
from pipeline.rescore import RESCORED
from pipeline.work import Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class ScorePolicy:
    """`[score]` and `[study]` of the configuration."""

    combine: Literal["max", "mean"]
    chest: rules.ChestPolicy
    rescored: Literal["all", "changed", "none"] = "changed"  # which studies of the archive, scored again, get another report
    batch: int = 8  # films that are scored and committed together, while those after them are decoded
    backfilled: Literal["all", "none"] = "none"  # which studies that a backfill brought get a report


@dataclass(slots=True)
class _Load:
    """One job's share of a batch: what is to be looked at, its images, and what could not be read."""

    job: Job
    wanted: Sequence[StoredInstance]
    fresh: dict[str, Scores] = field(default_factory=dict)  # recalled, then with those of its films
    films: list[StoredInstance] = field(default_factory=list)
    images: list[Image] = field(default_factory=list)
    unreadable: list[PixelsUnreadable] = field(default_factory=list)

    @property
    def unknown(self) -> list[StoredInstance]:
        """The films whose pixels are needed."""
        return [film for film in self.wanted if film.header.sop_instance_uid not in self.fresh]


def score(
    jobs: Sequence[Job], *, catalog: Catalog, pixels: ImageReader, scorers: Scorers, policy: ScorePolicy
) -> Iterator[Outcome]:
    """Score the studies of these jobs, batch by batch. Only images that the serving version has not scored are looked at, and only
    those are read of which nothing was kept that stands for the pixels.

    Yields each job with its error or None; a study that fails does not touch the others. All of them are scored by one version,
    whichever is promoted meanwhile. NoWeights where no version serves.
    """
    scorer = versions.load_serving(catalog=catalog, scorers=scorers)
    version = scorer.version
    wanted = _unscored([job.subject for job in jobs], version, catalog=catalog, policy=policy)
    loads = [_Load(job, wanted[job.subject]) for job in jobs]
    recalled = scorer.recall([film for load in loads for film in load.wanted])
    for load in loads:
        uids = [film.header.sop_instance_uid for film in load.wanted]
        load.fresh = {uid: recalled[uid] for uid in uids if uid in recalled}
    seen = pixels.read_ahead([film for load in loads for film in load.unknown], scorer.sight)
    for batch in _batches(loads, policy.batch):
        for load in batch:
            _take(load, seen)
        images, films = [image for load in batch for image in load.images], [film for load in batch for film in load.films]
        scores = iter(scorer.score(images, films)) if images else iter(())
        for load in batch:
            load.fresh |= {film.header.sop_instance_uid: next(scores) for film in load.films}
        yield from _commit_together(batch, version, catalog=catalog, policy=policy)


def _unscored(
    study_instance_uids: Sequence[str], version: ModelVersion, *, catalog: Catalog, policy: ScorePolicy
) -> dict[str, list[StoredInstance]]:
    """Return of each study the images that are to be scored and that this version has not scored."""
    with catalog.read() as tx:
        known = tx.studies.instances_of(study_instance_uids)
        scored = tx.scores.image_scores_of(study_instance_uids, version.number)
    wanted = {uid: rules.choose_images(known.get(uid, []), policy.chest).images for uid in study_instance_uids}
    return {
        uid: [image for image in images if image.header.sop_instance_uid not in scored.get(uid, ())]
        for uid, images in wanted.items()
    }


def _batches(loads: Sequence[_Load], films: int) -> Iterator[list[_Load]]:
    """Whole studies, in order, until there are so many films to look at."""
    batch: list[_Load] = []
    for load in loads:
        batch.append(load)
        if sum(len(each.unknown) for each in batch) >= films:
            yield batch
            batch = []
    if batch:
        yield batch


def _take(load: _Load, seen: Iterator[Image | PixelsUnreadable]) -> None:
    for film in load.unknown:
        found = next(seen)
        if isinstance(found, PixelsUnreadable):
            load.unreadable.append(found)
        else:
            load.images.append(found)
            load.films.append(film)


def _commit_together(loads: Sequence[_Load], version: ModelVersion, *, catalog: Catalog, policy: ScorePolicy) -> list[Outcome]:
    """Commit a batch in one transaction: the disk is waited for once. Where that fails, each study by itself."""
    try:
        with catalog.begin() as tx:
            _write(tx, loads, version, policy)
    except Exception:  # of any study; by itself it tells whose it is, and the others come through
        return [Outcome(load.job, _commit(load, version, catalog=catalog, policy=policy)) for load in loads]
    return [Outcome(load.job, None) for load in loads]


def _commit(load: _Load, version: ModelVersion, *, catalog: Catalog, policy: ScorePolicy) -> RadclipdError | None:
    try:
        with catalog.begin() as tx:
            _write(tx, [load], version, policy)
    except RadclipdError as error:
        return error
    return None


def _write(tx: Transaction, loads: Sequence[_Load], version: ModelVersion, policy: ScorePolicy) -> None:
    """Write scores, predictions, report jobs and the end of the score jobs: for all studies at once, as far as may be, for a
    server takes longer to be asked than to answer."""
    by_study = {load.job.subject: load for load in sorted(loads, key=lambda load: load.job.subject)}  # all lock in this order
    tx.scores.add_image_scores(version.number, {uid: scores for load in loads for uid, scores in load.fresh.items()})
    scored = tx.scores.image_scores_of(by_study, version.number)
    for study_instance_uid, load in by_study.items():
        if load.unreadable and study_instance_uid not in scored:
            raise load.unreadable[0]
        for error in load.unreadable:
            tx.audit(AuditEvent("score", "failed", study_instance_uid, str(error)))
    fresh = {uid: list(scored[uid].values()) for uid, load in by_study.items() if load.fresh}
    _predict(tx, [by_study[uid].job for uid in fresh], version, fresh, policy)
    tx.jobs.finish(*(load.job for load in by_study.values()))


def _predict(
    tx: Transaction, jobs: Sequence[Job], version: ModelVersion, scored: Mapping[str, Sequence[Scores]], policy: ScorePolicy
) -> None:
    predictions = {
        uid: rules.predictions_of(rules.combine(scores, policy.combine), thresholds=version.thresholds, band=version.band)
        for uid, scores in scored.items()
    }
    told = [job for job in jobs if _is_told(tx, job, predictions[job.subject], policy)]
    revisions = tx.studies.next_revisions(predictions)
    tx.scores.put_predictions(version.number, predictions, revisions=revisions)
    for job in told:
        tx.jobs.put(JobKind.REPORT, job.subject, {"version": version.number, "revision": revisions[job.subject]})
    tx.studies.put_scored(predictions)


def _is_told(tx: Transaction, job: Job, predictions: Sequence[Prediction], policy: ScorePolicy) -> bool:
    if _kept_quiet(tx, job.subject, policy):
        return False
    return not job.payload.get(RESCORED) or _worth_telling(tx, job.subject, predictions, policy)


def _kept_quiet(tx: Transaction, study_instance_uid: str, policy: ScorePolicy) -> bool:
    """Tell whether nobody asked for a report: a backfill brought the study, and nobody has heard of it before."""
    brought = policy.backfilled == "none" and tx.backfills.brought(study_instance_uid)
    return brought and tx.reports.latest(study_instance_uid) is None


def _worth_telling(tx: Transaction, study_instance_uid: str, predictions: Sequence[Prediction], policy: ScorePolicy) -> bool:
    """Tell whether a study that was scored again gets another report. Changed: decides otherwise than the last report does.

    A report that was never built, or that the archive refused, has told nobody anything.
    """
    if policy.rescored != "changed":
        return policy.rescored == "all"
    last = tx.reports.latest(study_instance_uid)
    told = last is not None and last.state in (ReportState.BUILT, ReportState.SENT)
    before = tx.scores.predictions(study_instance_uid, last.version) if last is not None and told else []
    return [prediction.decision for prediction in before] != [prediction.decision for prediction in predictions]
