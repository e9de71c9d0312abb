"""score: the images of settled studies -> 14 scores per image -> the predictions of each study and a report job."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Literal

from pipeline import decisions, references, rules, versions, withholding
from pipeline.domain import (
    AuditEvent,
    Decision,
    DeliveryMode,
    Header,
    Job,
    JobKind,
    ModelVersion,
    Prediction,
    ReferenceDistribution,
    ReportState,
    Scores,
    StoredInstance,
    StudyState,
)
from pipeline.errors import PixelsUnreadable, RadclipdError
from pipeline.ports.images import ImageReader, ModelInput
from pipeline.ports.services import Catalog, Scorer, Scorers, Transaction
from pipeline.references import RERANK_KEY
from pipeline.rescore import RESCORE_KEY
from pipeline.work import JobOutcome


@dataclass(frozen=True, slots=True, kw_only=True)
class ScorePolicy:
    """`[score]`, `[study]`, `[report]` and `[backfill]` of the configuration."""

    aggregate: Literal["max", "mean"]  # how the scores of a study's images become one
    chest: rules.ChestPolicy
    rescored_studies: Literal["all", "changed", "none"] = "changed"  # re-scored studies that get another report
    batch_size: int = 8  # images scored and committed together, while the next ones are decoded
    backfill_reports: Literal["all", "none"] = "none"  # backfilled studies that get a report
    decision: decisions.DecisionPolicy = decisions.DEFAULT_POLICY
    deliver: DeliveryMode = DeliveryMode.ALL
    silent_share: float = 0.0  # share (0..1) of the patients whose reports are never sent


@dataclass(slots=True)
class _ScoringItem:
    """One job and the images of its study on their way through the step."""

    job: Job
    images: Sequence[StoredInstance]  # the study's images to score
    requested: Sequence[StoredInstance]  # those that the serving version has not scored
    scores: dict[str, Scores] = field(default_factory=dict)  # SOPInstanceUID -> scores, first from the activation cache
    thumbnails: dict[str, bytes] = field(default_factory=dict)  # SOPInstanceUID -> thumbnail of decoded instances
    decoded_instances: list[StoredInstance] = field(default_factory=list)
    model_inputs: list[ModelInput] = field(default_factory=list)  # of decoded_instances, in the same order
    unreadable: list[PixelsUnreadable] = field(default_factory=list)

    @property
    def uncached(self) -> list[StoredInstance]:
        """The instances without scores, whose pixels must be decoded."""
        return [instance for instance in self.requested if instance.header.sop_instance_uid not in self.scores]


def score(
    jobs: Sequence[Job], *, catalog: Catalog, pixels: ImageReader, scorers: Scorers, policy: ScorePolicy
) -> Iterator[JobOutcome]:
    """Score the studies of these jobs, batch by batch: only images without scores of the serving version, and without decoding
    those in the activation cache.

    Yields each job with its error or None; the error of one study does not touch the others. One version scores all of them, even
    where another version is promoted meanwhile. NoWeights where no version serves.
    """
    scorer = versions.load_serving(catalog=catalog, scorers=scorers)
    version = scorer.version
    reference = references.load_current(version, catalog=catalog)
    with catalog.read() as tx:
        items = _make_items(tx, jobs, version, policy)
    cached_scores = scorer.score_cached([instance for item in items for instance in item.requested])
    for item in items:
        uids = [instance.header.sop_instance_uid for instance in item.requested]
        item.scores = {uid: cached_scores[uid] for uid in uids if uid in cached_scores}
    uncached = [instance for item in items for instance in item.uncached]
    model_inputs = pixels.read_ahead(uncached, scorer.input_transform)
    with ThreadPoolExecutor(1, thread_name_prefix="commit") as writer:  # commits one batch while the encoder runs the next
        previous_commit: Callable[[], list[JobOutcome]] = list
        priority = 0
        for batch in _split_batches(items, policy.batch_size):
            if batch[0].job.priority != priority:  # jobs of a more urgent priority are committed before the encoder goes on
                yield from previous_commit()
                previous_commit, priority = list, batch[0].job.priority
            _score_batch(batch, model_inputs, scorer)
            commit = writer.submit(_commit_batch, batch, version, reference, catalog=catalog, policy=policy)
            yield from previous_commit()
            previous_commit = commit.result
        yield from previous_commit()


def _make_items(tx: Transaction, jobs: Sequence[Job], version: ModelVersion, policy: ScorePolicy) -> list[_ScoringItem]:
    studies = [job.subject for job in jobs]
    instances, scored = tx.studies.instances_of(studies), tx.scores.image_scores_of(studies, version.number)
    items = []
    for job in jobs:
        images = rules.choose_images(instances.get(job.subject, ()), policy.chest).images
        known = scored.get(job.subject, ())
        items.append(_ScoringItem(job, images, [image for image in images if image.header.sop_instance_uid not in known]))
    return items


def _split_batches(items: Sequence[_ScoringItem], batch_size: int) -> Iterator[list[_ScoringItem]]:
    """Split into batches of whole studies, in order, each with about `batch_size` images to decode. A batch has one priority."""
    batch: list[_ScoringItem] = []
    for item in items:
        if batch and item.job.priority > batch[-1].job.priority:
            yield batch
            batch = []
        batch.append(item)
        if sum(len(each.uncached) for each in batch) >= batch_size:
            yield batch
            batch = []
    if batch:
        yield batch


def _score_batch(batch: Sequence[_ScoringItem], model_inputs: Iterator[ModelInput | PixelsUnreadable], scorer: Scorer) -> None:
    """Score the uncached images of a batch in one call of the encoder."""
    for item in batch:
        _collect_model_inputs(item, model_inputs)
    inputs = [model_input for item in batch for model_input in item.model_inputs]
    instances = [instance for item in batch for instance in item.decoded_instances]
    scores = iter(scorer.score(inputs, instances)) if inputs else iter(())
    thumbnails = iter(scorer.thumbnails(inputs)) if inputs else iter(())
    for item in batch:
        item.thumbnails = {instance.header.sop_instance_uid: next(thumbnails) for instance in item.decoded_instances}
        item.scores |= {instance.header.sop_instance_uid: next(scores) for instance in item.decoded_instances}


def _collect_model_inputs(item: _ScoringItem, model_inputs: Iterator[ModelInput | PixelsUnreadable]) -> None:
    for instance in item.uncached:
        decoded = next(model_inputs)
        if isinstance(decoded, PixelsUnreadable):
            item.unreadable.append(decoded)
        else:
            item.model_inputs.append(decoded)
            item.decoded_instances.append(instance)


def _commit_batch(
    items: Sequence[_ScoringItem],
    version: ModelVersion,
    reference: ReferenceDistribution | None,
    *,
    catalog: Catalog,
    policy: ScorePolicy,
) -> list[JobOutcome]:
    """Commit a batch in one transaction, so that the disk is synchronised once. Where it fails, commit each study by itself."""
    try:
        with catalog.begin() as tx:
            _write_batch(tx, items, version, reference, policy)
    except Exception:  # of any study: its own transaction shows which one, and the others are committed
        return [JobOutcome(item.job, _commit_study(item, version, reference, catalog=catalog, policy=policy)) for item in items]
    return [JobOutcome(item.job, None) for item in items]


def _commit_study(
    item: _ScoringItem,
    version: ModelVersion,
    reference: ReferenceDistribution | None,
    *,
    catalog: Catalog,
    policy: ScorePolicy,
) -> RadclipdError | None:
    try:
        with catalog.begin() as tx:
            _write_batch(tx, [item], version, reference, policy)
    except RadclipdError as error:
        return error
    return None


def _write_batch(
    tx: Transaction,
    items: Sequence[_ScoringItem],
    version: ModelVersion,
    reference: ReferenceDistribution | None,
    policy: ScorePolicy,
) -> None:
    """Write scores, predictions, report jobs and study states, and finish the score jobs."""
    studies = tx.studies.lock([item.job.subject for item in items])
    tx.scores.add_image_scores(version.number, {uid: scores for item in items for uid, scores in item.scores.items()})
    tx.thumbnails.add({uid: thumbnail for item in items for uid, thumbnail in item.thumbnails.items()})
    scored = tx.scores.image_scores_of(studies, version.number)
    for item in items:
        if item.unreadable and item.job.subject not in scored:
            raise item.unreadable[0]
        for error in item.unreadable:
            tx.audit(AuditEvent("score", "failed", item.job.subject, str(error)))
    told = [item for item in items if item.scores or (item.job.payload.get(RERANK_KEY) and item.job.subject in scored)]
    predictions = {}
    for item in told:
        headers, image_scores = [image.header for image in item.images], list(scored[item.job.subject].values())
        predictions[item.job.subject] = predict_images(headers, image_scores, version, reference, policy)
    withholding.draw_silent_studies(tx, {uid: studies[uid] for uid in predictions if uid in studies}, share=policy.silent_share)
    _write_predictions(tx, [item.job for item in told], predictions, version, policy)
    reopened = {uid for uid, study in studies.items() if study.state is not StudyState.SETTLED}  # by a late image
    tx.studies.put_states([job.subject for job in (item.job for item in told) if job.subject not in reopened], StudyState.SCORED)
    tx.jobs.finish(*(item.job for item in items))


def predict_images(
    headers: Sequence[Header],
    image_scores: Sequence[Scores],
    version: ModelVersion,
    reference: ReferenceDistribution | None,
    policy: ScorePolicy,
) -> list[Prediction]:
    """Return the predictions of a study, from the headers of the images chosen for scoring and the scores [14] of those scored."""
    scores = rules.aggregate_scores(image_scores, policy.aggregate)
    predictions = decisions.predict_study(scores, version, reference, references.view_of(headers))
    reasons = [decisions.judge_age(header.patient_age, policy.decision) for header in headers]
    outside = next((reason for reason in reasons if reason is not None), None)
    return decisions.withhold(predictions, outside) if outside else predictions


def _write_predictions(
    tx: Transaction,
    jobs: Sequence[Job],
    predictions: Mapping[str, Sequence[Prediction]],
    version: ModelVersion,
    policy: ScorePolicy,
) -> None:
    """Write the predictions of the jobs' studies, and enqueue the reports that the policy asks for."""
    unreported = _find_unreported(tx, jobs, predictions, policy)
    revisions = tx.studies.next_revisions(predictions)
    tx.scores.put_predictions(version.number, predictions, revisions)
    reported = [job for job in jobs if job.subject not in unreported]
    for priority in sorted({job.priority for job in reported}):  # a report job keeps the priority and the age of its score job
        due = {job.subject: job.due_at for job in reported if job.priority == priority}
        payloads = {uid: {"version": version.number, "revision": revisions[uid]} for uid in due}
        tx.jobs.put_all(JobKind.REPORT, payloads, priority=priority, due=due)


def _find_unreported(
    tx: Transaction, jobs: Sequence[Job], predictions: Mapping[str, Sequence[Prediction]], policy: ScorePolicy
) -> set[str]:
    """Return the studies that get no report by the policy."""
    past = withholding.find_past_studies(tx, [job.subject for job in jobs if job.payload.get(RESCORE_KEY)], policy.deliver)
    return _find_suppressed_backfills(tx, predictions, policy) | past | _find_unchanged_rescores(tx, jobs, predictions, policy)


def _find_suppressed_backfills(tx: Transaction, studies: Collection[str], policy: ScorePolicy) -> set[str]:
    """Return the backfilled studies that get no report: the policy asks for none, and none was made before."""
    backfilled = tx.backfills.backfilled_studies(studies) if policy.backfill_reports == "none" else set()
    return backfilled - tx.reports.latest_of(backfilled).keys()


def _find_unchanged_rescores(
    tx: Transaction, jobs: Sequence[Job], predictions: Mapping[str, Sequence[Prediction]], policy: ScorePolicy
) -> set[str]:
    """Return the re-scored studies that get no other report. By policy "changed": those whose decisions are as last reported.

    A report that was never built, or that the archive refused, counts as not reported.
    """
    rescored = {job.subject for job in jobs if job.payload.get(RESCORE_KEY)}
    if policy.rescored_studies != "changed":
        return set() if policy.rescored_studies == "all" else rescored
    reached_archive = (ReportState.BUILT, ReportState.SENT)
    reports = {uid: report for uid, report in tx.reports.latest_of(rescored).items() if report.state in reached_archive}
    last_reported: dict[str, Sequence[Prediction]] = {}
    for version in {report.version for report in reports.values()}:
        last_reported |= tx.scores.predictions_of([uid for uid, report in reports.items() if report.version == version], version)
    return {uid for uid in rescored if _list_decisions(last_reported.get(uid, ())) == _list_decisions(predictions[uid])}


def _list_decisions(predictions: Sequence[Prediction]) -> list[Decision]:
    return [prediction.decision for prediction in predictions]
