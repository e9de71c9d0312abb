"""Files outside the catalog, on fakes: the same predictions as the fast line gives, study by study."""

from __future__ import annotations

import pytest

from pipeline import stops
from pipeline.domain import StoredInstance, StudyState
from pipeline.errors import NoWeights, PixelsUnreadable, ReportingStopped
from pipeline.file_scoring import FileScoring
from pipeline.report import ReportPolicy
from pipeline.score import ScorePolicy
from tests.builders.hospital_in_memory import Hospital


def scoring_of(hospital: Hospital) -> FileScoring:
    return FileScoring(
        catalog=hospital.catalog,
        pixels=hospital.pixels,
        scorers=hospital.scorers,
        policy=ScorePolicy(aggregate="max", chest=hospital.chest, batch_size=2, decision=hospital.decision),
        reporting=ReportPolicy(decision=hospital.decision),
    )


def instances_of(hospital: Hospital, *studies: str) -> list[StoredInstance]:
    with hospital.catalog.read() as tx:
        return [instance for study in studies for instance in tx.studies.instances(study)]


def test_predictions_are_those_of_the_fast_line_whatever_the_batches() -> None:
    hospital = Hospital()
    for study, films in (("1.1", 3), ("1.2", 1), ("1.3", 2)):
        for number in range(films):
            hospital.receive(hospital.header(study, f"{study}.{number}", patient_age="015Y" if study == "1.2" else "060Y"))
    hospital.receive(hospital.header("1.4", "1.4.1", view_position="LL"))
    found = {one.study_instance_uid: one for one in scoring_of(hospital).score(instances_of(hospital, "1.1", "1.4", "1.2", "1.3"))}
    committed = hospital.catalog.committed
    assert list(found) == ["1.1", "1.4", "1.2", "1.3"]
    hospital.run()
    with hospital.catalog.read() as tx:
        for study in ("1.1", "1.2", "1.3"):
            assert list(found[study].predictions) == tx.scores.predictions(study, 1)
            assert found[study].state is StudyState.SCORED
    assert (found["1.4"].state, found["1.4"].statement) == (StudyState.IGNORED, None)
    assert committed < hospital.catalog.committed  # the run commits; the scoring of files has not


def test_an_image_that_cannot_be_decoded_costs_itself_alone() -> None:
    hospital = Hospital()
    for sop in ("1.1.1", "1.1.2"):
        hospital.receive(hospital.header("1.1", sop))
    hospital.receive(hospital.header("1.2", "1.2.1"))
    hospital.pixels.broken |= {"1.1.2", "1.2.1"}
    first, second = scoring_of(hospital).score(instances_of(hospital, "1.1", "1.2"))
    assert [image.header.sop_instance_uid for image in first.images] == ["1.1.1"]
    assert [type(error) for _, error in first.unreadable] == [PixelsUnreadable]
    assert (second.state, second.statement) == (StudyState.SETTLED, None)
    assert second.reason


def test_nothing_is_told_without_a_version_or_while_reporting_is_stopped() -> None:
    with pytest.raises(NoWeights):
        scoring_of(Hospital(serving=False))
    hospital = Hospital()
    stops.stop("", reason="recall", source="test", catalog=hospital.catalog)
    with pytest.raises(ReportingStopped, match="recall"):
        scoring_of(hospital)
