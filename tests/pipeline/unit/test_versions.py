"""The serving version: promotion, rejection and rollback by a person, and the fall-back from damaged files."""

from __future__ import annotations

import logging

import pytest

from pipeline import versions
from pipeline.domain import JobKind, JobState, ModelVersion, VersionState
from pipeline.errors import NoWeights, PermanentError, WeightsCorrupt, WeightsIncompatible, WeightsRejected
from pipeline.ports.services import Scorer
from tests.builders.fakes.catalog import FakeCatalog
from tests.builders.fakes.models import FakeScorer
from tests.builders.fakes.versions import a_version
from tests.builders.hospital_in_memory import Hospital


class FaultyScorers:
    """ports.Scorers; loading the versions `bad` raises `fault`."""

    def __init__(self, *bad: int, fault: type[NoWeights | WeightsRejected] = WeightsCorrupt) -> None:
        self.bad, self.fault = set(bad), fault

    def load(self, version: ModelVersion) -> Scorer:
        if version.number in self.bad:
            raise self.fault(f"the head of version {version.number} is not the file it was", hint="restore it")
        return FakeScorer(version)


@pytest.fixture
def catalog() -> FakeCatalog:
    """Version 1 served, 2 serves, 3 is a candidate, 4 was rejected."""
    made = FakeCatalog()
    with made.begin() as tx:
        tx.versions.add(a_version(1))
        for number in (2, 3, 4):
            tx.versions.add(a_version(number, VersionState.CANDIDATE))
        tx.versions.serve(2)
        tx.versions.put_state(4, VersionState.REJECTED, reason="no better")
    return made


def states(catalog: FakeCatalog) -> dict[int, str]:
    return {number: version.state.value for number, version in catalog.tables.versions.items()}


@pytest.mark.parametrize("number", [1, 3, 4])
def test_any_other_version_may_be_promoted(catalog: FakeCatalog, number: int) -> None:
    assert versions.promote(number, catalog=catalog, verify=FaultyScorers().load, source="cli:me").state is VersionState.SERVING
    assert states(catalog)[2] == "retired"
    event = catalog.tables.audit[-1]
    assert (event.action, event.outcome, event.subject, event.source) == ("promote", "done", f"version {number}", "cli:me")
    assert event.detail == "serves in place of version 2"


def test_a_version_that_cannot_be_loaded_is_not_promoted(catalog: FakeCatalog) -> None:
    before = states(catalog)
    with pytest.raises(WeightsRejected):
        versions.promote(3, catalog=catalog, verify=FaultyScorers(3).load, source="")
    with pytest.raises(PermanentError, match="serves already"):
        versions.promote(2, catalog=catalog, verify=FaultyScorers().load, source="")
    with pytest.raises(PermanentError, match="no version 9"):
        versions.promote(9, catalog=catalog, verify=FaultyScorers().load, source="")
    assert (states(catalog), catalog.tables.audit) == (before, [])


def test_a_version_is_rejected_with_the_reason(catalog: FakeCatalog) -> None:
    rejected = versions.reject(3, reason="misses every hernia", catalog=catalog, source="cli:me")
    assert (rejected.state, rejected.reason) == (VersionState.REJECTED, "misses every hernia")
    assert catalog.tables.audit[-1].detail == "misses every hernia"
    with pytest.raises(PermanentError, match="version 2 serves") as refused:
        versions.reject(2, reason="x", catalog=catalog, source="")
    assert "rollback" in refused.value.hint


def test_a_rollback_returns_to_the_previous_serving_version(catalog: FakeCatalog) -> None:
    versions.promote(3, catalog=catalog, verify=FaultyScorers().load, source="")
    for number in (2, 1):
        assert versions.rollback(reason="odd", catalog=catalog, verify=FaultyScorers().load, source="").number == number
    assert states(catalog) == {1: "serving", 2: "rejected", 3: "rejected", 4: "rejected"}
    with pytest.raises(PermanentError, match="no version served before version 1"):
        versions.rollback(reason="odd", catalog=catalog, verify=FaultyScorers().load, source="")


def test_a_rollback_to_damaged_files_is_refused(catalog: FakeCatalog) -> None:
    with pytest.raises(WeightsRejected):
        versions.rollback(reason="odd", catalog=catalog, verify=FaultyScorers(1).load, source="")
    assert states(catalog)[2] == "serving"


@pytest.mark.parametrize(
    ("fault", "words"), [(NoWeights, "missing"), (WeightsCorrupt, "corrupt"), (WeightsIncompatible, "incompatible")]
)
def test_a_damaged_serving_version_is_rejected_and_its_predecessor_serves(
    catalog: FakeCatalog, caplog: pytest.LogCaptureFixture, fault: type[NoWeights | WeightsRejected], words: str
) -> None:
    with caplog.at_level(logging.ERROR):
        assert versions.load_serving(catalog=catalog, scorers=FaultyScorers(2, fault=fault)).version.number == 1
    assert (states(catalog)[1], states(catalog)[2]) == ("serving", "rejected")
    assert catalog.tables.versions[2].reason.startswith(f"cannot be loaded, {words}: the head of version 2")
    assert words in catalog.tables.audit[-1].detail
    assert (catalog.tables.audit[-1].action, catalog.tables.audit[-1].outcome) == ("rollback", "failed")
    assert "cannot be loaded" in caplog.text


def test_no_state_changes_where_neither_version_can_be_loaded(catalog: FakeCatalog) -> None:
    before = states(catalog)
    with pytest.raises(WeightsRejected, match="version 2"):
        versions.load_serving(catalog=catalog, scorers=FaultyScorers(1, 2))
    catalog.tables.retired.clear()
    with pytest.raises(WeightsRejected, match="version 2"):
        versions.load_serving(catalog=catalog, scorers=FaultyScorers(2))
    assert (states(catalog), catalog.tables.audit) == (before, [])
    with pytest.raises(NoWeights):
        versions.load_serving(catalog=FakeCatalog(), scorers=FaultyScorers())


def test_a_promotion_during_scoring_mixes_no_study() -> None:
    hospital = Hospital()
    with hospital.catalog.begin() as tx:
        tx.versions.add(a_version(2, VersionState.CANDIDATE, thresholds=dict.fromkeys(a_version().thresholds, 0.9)))
    for sop in ("1.1.1", "1.1.2"):
        hospital.receive(hospital.header(sop=sop))
    read = hospital.pixels.read
    promoted: list[ModelVersion] = []

    def promoting_read(instance: object) -> object:
        if not promoted:
            promoted.append(versions.promote(2, catalog=hospital.catalog, verify=FaultyScorers().load, source=""))
        return read(instance)  # type: ignore[arg-type]  # an instance

    hospital.pixels.read = promoting_read  # type: ignore[method-assign,assignment]  # images are decoded during the step
    hospital.run()
    with hospital.catalog.read() as tx:
        assert len(tx.scores.image_scores("1.1", 1)) == 2
        assert tx.scores.image_scores("1.1", 2) == {}
        assert len(tx.scores.predictions("1.1", 1)) == 14
    assert {job.payload["version"] for job in hospital.jobs(JobState.DONE) if job.kind is JobKind.REPORT} == {1}
