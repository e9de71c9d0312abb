"""score: the images of settled studies -> 14 scores each -> the predictions of each study and a report job."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Literal

from pipeline import rules, versions
from pipeline.domain import (
    AuditEvent,
    Decision,
    Job,
    JobKind,
    ModelVersion,
    Prediction,
    ReportState,
    Scores,
    StoredInstance,
    StudyState,
)
from pipeline.errors import PixelsUnreadable, RadclipdError
from pipeline.ports.images import ImageReader, ModelInput
from pipeline.ports.services import Catalog, Scorer, Scorers, Transaction
from pipeline.rescore import RESCORE_KEY
from pipeline.work import JobOutcome


@dataclass(frozen=True, slots=True, kw_only=True)
class ScorePolicy:
    """`[score]` and `[study]` of the configuration."""

    aggregate: Literal["max", "mean"]
    chest: rules.ChestPolicy
    rescored_studies: Literal["all", "changed", "none"] = (
        "changed"  # which studies of the archive, scored again, get another report
    )
    batch_size: int = 8  # films that are scored and committed together, while those after them are decoded
    backfill_reports: Literal["all", "none"] = "none"  # which studies that a backfill brought get a report


@dataclass(slots=True)
class _ScoringItem:
    """One job's share of a batch: what is to be looked at, its images, and what could not be read."""

    job: Job
    requested: Sequence[StoredInstance]
    scores: dict[str, Scores] = field(default_factory=dict)  # recalled, then with those of its films
    decoded_instances: list[StoredInstance] = field(default_factory=list)
    model_inputs: list[ModelInput] = field(default_factory=list)
    unreadable: list[PixelsUnreadable] = field(default_factory=list)

    @property
    def uncached(self) -> list[StoredInstance]:
        """The films whose pixels are needed."""
        return [film for film in self.requested if film.header.sop_instance_uid not in self.scores]


def score(
    jobs: Sequence[Job], *, catalog: Catalog, pixels: ImageReader, scorers: Scorers, policy: ScorePolicy
) -> Iterator[JobOutcome]:
    """Score the studies of these jobs, batch by batch. Only images that the serving version has not scored are looked at, and only
    those are read of which nothing was kept that stands for the pixels.

    Yields each job with its error or None; a study that fails does not touch the others. All of them are scored by one version,
    whichever is promoted meanwhile. NoWeights where no version serves.
    """
    scorer = versions.load_serving(catalog=catalog, scorers=scorers)
    version = scorer.version
    with catalog.read() as tx:
        wanted = _find_unscored(tx, [job.subject for job in jobs], version, policy)
    loads = [_ScoringItem(job, wanted[job.subject]) for job in jobs]
    recalled = scorer.score_cached([film for load in loads for film in load.requested])
    for load in loads:
        uids = [film.header.sop_instance_uid for film in load.requested]
        load.scores = {uid: recalled[uid] for uid in uids if uid in recalled}
    seen = pixels.read_ahead([film for load in loads for film in load.uncached], scorer.input_transform)
    with ThreadPoolExecutor(1, thread_name_prefix="commit") as writer:  # while the next batch is in the encoder
        committed: Callable[[], list[JobOutcome]] = list  # what became of the batch before
        urgency = 0
        for batch in _split_batches(loads, policy.batch_size):
            if batch[0].job.priority != urgency:  # what is more urgent is committed before anything else is looked at
                yield from committed()
                committed, urgency = list, batch[0].job.priority
            _score_batch(batch, seen, scorer)
            commit = writer.submit(_commit_batch, batch, version, catalog=catalog, policy=policy)
            yield from committed()
            committed = commit.result
        yield from committed()


def _score_batch(batch: Sequence[_ScoringItem], model_inputs: Iterator[ModelInput | PixelsUnreadable], scorer: Scorer) -> None:
    """Score the films of a batch whose pixels are needed."""
    for load in batch:
        _collect_model_inputs(load, model_inputs)
    images, films = (
        [image for load in batch for image in load.model_inputs],
        [film for load in batch for film in load.decoded_instances],
    )
    scores = iter(scorer.score(images, films)) if images else iter(())
    for load in batch:
        load.scores |= {film.header.sop_instance_uid: next(scores) for film in load.decoded_instances}


def _find_unscored(
    tx: Transaction, studies: Collection[str], version: ModelVersion, policy: ScorePolicy
) -> dict[str, list[StoredInstance]]:
    """Return StudyInstanceUID -> the images to be scored."""
    films, scored = tx.studies.instances_of(studies), tx.scores.image_scores_of(studies, version.number)
    chosen = {uid: rules.choose_images(films.get(uid, ()), policy.chest).images for uid in studies}
    return {uid: [film for film in of if film.header.sop_instance_uid not in scored.get(uid, ())] for uid, of in chosen.items()}


def _split_batches(items: Sequence[_ScoringItem], batch_size: int) -> Iterator[list[_ScoringItem]]:
    """Whole studies, in order, until there are so many films to look at. What is more urgent waits for nothing that is less so."""
    batch: list[_ScoringItem] = []
    for load in items:
        if batch and load.job.priority > batch[-1].job.priority:
            yield batch
            batch = []
        batch.append(load)
        if sum(len(each.uncached) for each in batch) >= batch_size:
            yield batch
            batch = []
    if batch:
        yield batch


def _collect_model_inputs(item: _ScoringItem, model_inputs: Iterator[ModelInput | PixelsUnreadable]) -> None:
    for film in item.uncached:
        found = next(model_inputs)
        if isinstance(found, PixelsUnreadable):
            item.unreadable.append(found)
        else:
            item.model_inputs.append(found)
            item.decoded_instances.append(film)


def _commit_batch(
    items: Sequence[_ScoringItem], version: ModelVersion, *, catalog: Catalog, policy: ScorePolicy
) -> list[JobOutcome]:
    """Commit a batch in one transaction: the disk is waited for once. Where that fails, each study by itself."""
    try:
        with catalog.begin() as tx:
            _write_batch(tx, items, version, policy)
    except Exception:  # of any study; by itself it tells whose it is, and the others come through
        return [JobOutcome(load.job, _commit_study(load, version, catalog=catalog, policy=policy)) for load in items]
    return [JobOutcome(load.job, None) for load in items]


def _commit_study(item: _ScoringItem, version: ModelVersion, *, catalog: Catalog, policy: ScorePolicy) -> RadclipdError | None:
    try:
        with catalog.begin() as tx:
            _write_batch(tx, [item], version, policy)
    except RadclipdError as error:
        return error
    return None


def _write_batch(tx: Transaction, items: Sequence[_ScoringItem], version: ModelVersion, policy: ScorePolicy) -> None:
    """Write scores, predictions, the report jobs and the end of the score jobs."""
    studies = tx.studies.lock([load.job.subject for load in items])
    tx.scores.add_image_scores(version.number, {uid: scores for load in items for uid, scores in load.scores.items()})
    scored = tx.scores.image_scores_of(studies, version.number)
    for load in items:
        if load.unreadable and load.job.subject not in scored:
            raise load.unreadable[0]
        for error in load.unreadable:
            tx.audit(AuditEvent("score", "failed", load.job.subject, str(error)))
    fresh = [load.job for load in items if load.scores]
    combined = {job.subject: rules.aggregate_scores(list(scored[job.subject].values()), policy.aggregate) for job in fresh}
    _write_predictions(tx, fresh, combined, version, policy)
    reopened = {uid for uid, study in studies.items() if study.state is not StudyState.SETTLED}  # by a late image
    tx.studies.put_states([job.subject for job in fresh if job.subject not in reopened], StudyState.SCORED)
    tx.jobs.finish(*(load.job for load in items))


def _write_predictions(
    tx: Transaction, jobs: Sequence[Job], combined: Mapping[str, Scores], version: ModelVersion, policy: ScorePolicy
) -> None:
    """Write the predictions of the jobs' studies, and ask for the reports that somebody wants to read."""
    predictions = {
        uid: rules.predictions_of(scores, thresholds=version.thresholds, undetermined_margin=version.undetermined_margin)
        for uid, scores in combined.items()
    }
    untold = _find_suppressed_backfills(tx, predictions, policy) | _find_unchanged_rescores(tx, jobs, predictions, policy)
    revisions = tx.studies.next_revisions(predictions)
    tx.scores.put_predictions(version.number, predictions, revisions)
    told = [job for job in jobs if job.subject not in untold]
    for priority in sorted({job.priority for job in told}):  # a report is as urgent as the scores were, and stands where they stood
        due = {job.subject: job.due_at for job in told if job.priority == priority}
        payloads = {uid: {"version": version.number, "revision": revisions[uid]} for uid in due}
        tx.jobs.put_all(JobKind.REPORT, payloads, priority=priority, due=due)


def _find_suppressed_backfills(tx: Transaction, studies: Collection[str], policy: ScorePolicy) -> set[str]:
    """Return the studies of which nobody asked for a report: a backfill brought them, and nobody has heard of them before."""
    brought = tx.backfills.backfilled_studies(studies) if policy.backfill_reports == "none" else set()
    return brought - tx.reports.latest_of(brought).keys()


def _find_unchanged_rescores(
    tx: Transaction, jobs: Sequence[Job], predictions: Mapping[str, Sequence[Prediction]], policy: ScorePolicy
) -> set[str]:
    """Return the studies that were scored again and get no other report. Changed: decides otherwise than the last report does.

    A report that was never built, or that the archive refused, has told nobody anything.
    """
    again = {job.subject for job in jobs if job.payload.get(RESCORE_KEY)}
    if policy.rescored_studies != "changed":
        return set() if policy.rescored_studies == "all" else again
    told = {uid: last for uid, last in tx.reports.latest_of(again).items() if last.state in (ReportState.BUILT, ReportState.SENT)}
    before: dict[str, Sequence[Prediction]] = {}
    for version in {last.version for last in told.values()}:
        before |= tx.scores.predictions_of([uid for uid, last in told.items() if last.version == version], version)
    return {uid for uid in again if _list_decisions(before.get(uid, ())) == _list_decisions(predictions[uid])}


def _list_decisions(predictions: Sequence[Prediction]) -> list[Decision]:
    return [prediction.decision for prediction in predictions]
