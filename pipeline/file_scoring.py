"""file_scoring: DICOM files outside the catalog -> what is told of their studies, as a report of the serving version would tell it.

Scores, predictions and words come from the functions of the fast line: `score.predict_images`, `report.withhold_stopped`,
`report.tell`. The catalog is read and not written.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from pipeline import references, report, rules, score, versions
from pipeline.domain import ModelVersion, Prediction, ReferenceDistribution, Scores, StoredInstance, Study, StudyState
from pipeline.errors import PixelsUnreadable
from pipeline.ports.images import ImageReader
from pipeline.ports.services import Catalog, ReportContent, ReportWriter, Scorer, Scorers
from pipeline.statements import StudyStatement

FIRST_REVISION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredStudy:
    """A study of the files. `images`: those that were scored; `reason`: why there is no statement, in words."""

    study_instance_uid: str
    images: Sequence[StoredInstance]
    reason: str = ""
    predictions: Sequence[Prediction] = ()
    statement: StudyStatement | None = None
    unreadable: Sequence[tuple[StoredInstance, PixelsUnreadable]] = ()  # images of the study without a score

    @property
    def state(self) -> StudyState:
        """SCORED; IGNORED without an image to score; SETTLED where no image of it can be decoded."""
        if self.statement is not None:
            return StudyState.SCORED
        return StudyState.SETTLED if self.unreadable else StudyState.IGNORED


@dataclass(slots=True)
class _StudyImages:
    """The images of one study on their way through the step."""

    study_instance_uid: str
    choice: rules.ImageChoice
    scores: dict[str, Scores] = field(default_factory=dict)  # SOPInstanceUID -> scores
    unreadable: list[tuple[StoredInstance, PixelsUnreadable]] = field(default_factory=list)

    @property
    def is_complete(self) -> bool:
        """Whether each image has its scores or its error."""
        return len(self.scores) + len(self.unreadable) == len(self.choice.images)


class FileScoring:
    """The serving version, loaded, and the policies of scoring and reporting."""

    def __init__(
        self,
        *,
        catalog: Catalog,
        pixels: ImageReader,
        scorers: Scorers,
        policy: score.ScorePolicy,
        reporting: report.ReportPolicy,
    ) -> None:
        """NoWeights where no version serves, or its files are missing; WeightsRejected; ReportingStopped."""
        self._catalog, self._pixels, self._policy, self._reporting = catalog, pixels, policy, reporting
        with catalog.read() as tx:
            report.require_reporting(tx)
            serving = versions.require_serving(tx)
            self._reference: ReferenceDistribution | None = references.find_current(serving, tx)
        self._scorer: Scorer = scorers.load(serving)

    @property
    def version(self) -> ModelVersion:
        """The version that scores."""
        return self._scorer.version

    def score(self, instances: Iterable[StoredInstance]) -> Iterator[ScoredStudy]:
        """Yield each study of these instances, in the order of their first instances."""
        of_study: dict[str, list[StoredInstance]] = {}
        for instance in instances:
            of_study.setdefault(instance.header.study_instance_uid, []).append(instance)
        studies = [_StudyImages(uid, rules.choose_images(of, self._policy.chest)) for uid, of in of_study.items()]
        waiting = iter(studies)
        study = next(waiting, None)
        for _ in self._score_images(studies):
            while study is not None and study.is_complete:
                yield self._describe_study(study)
                study = next(waiting, None)

    def _score_images(self, studies: Sequence[_StudyImages]) -> Iterator[None]:
        """Score the images of all studies, batch by batch; a step after each batch, and one for studies without images."""
        images = [(study, image) for study in studies for image in study.choice.images]
        model_inputs = self._pixels.read_ahead([image for _, image in images], self._scorer.input_transform)
        for start in range(0, len(images), self._policy.batch_size):
            batch = images[start : start + self._policy.batch_size]
            decoded = [(study, image, next(model_inputs)) for study, image in batch]
            for study, image, found in decoded:
                if isinstance(found, PixelsUnreadable):
                    study.unreadable.append((image, found))
            readable = [one for one in decoded if not isinstance(one[2], PixelsUnreadable)]
            scores = self._scorer.score([found for _, _, found in readable]) if readable else ()
            for (study, image, _), row in zip(readable, scores, strict=True):
                study.scores[image.header.sop_instance_uid] = row
            yield
        yield

    def _describe_study(self, study: _StudyImages) -> ScoredStudy:
        uid, images = study.study_instance_uid, study.choice.images
        scored = [image for image in images if image.header.sop_instance_uid in study.scores]
        if not scored:
            reason = study.choice.reason or str(study.unreadable[0][1])
            return ScoredStudy(study_instance_uid=uid, images=(), reason=reason, unreadable=study.unreadable)
        headers, scores = [image.header for image in images], list(study.scores.values())
        predictions = score.predict_images(headers, scores, self.version, self._reference, self._policy)
        with self._catalog.read() as tx:
            predictions = report.withhold_stopped(tx, predictions)
            statement = report.tell(tx, predictions, self.version, self._reporting)
        return ScoredStudy(
            study_instance_uid=uid, images=scored, predictions=predictions, statement=statement, unreadable=study.unreadable
        )

    def write_report(self, scored: ScoredStudy, writer: ReportWriter, *, made_at: datetime) -> dict[str, bytes]:
        """Return SOP Instance UID -> DICOM file of the study's SR and of its visible objects. ReportImpossible."""
        assert scored.statement is not None
        first, uid = scored.images[0].header, scored.study_instance_uid
        content = ReportContent(
            report=writer.pending_report(uid, self.version.number, FIRST_REVISION),
            study=Study(
                study_instance_uid=uid,
                state=StudyState.SCORED,
                revision=FIRST_REVISION,
                instances=len(scored.images),
                received_at=made_at,
                last_received_at=made_at,
                accession_number=first.accession_number,
                study_date=first.study_date,
                patient_key=first.patient_key,
            ),
            version=self.version,
            predictions=scored.predictions,
            statement=scored.statement,
            evidence=scored.images,
        )
        visible = writer.pending_visible(content)
        objects = {content.report.sop_instance_uid: writer.write(content)}
        return objects | {one.sop_instance_uid: writer.write_visible(content, one, None) for one in visible}
