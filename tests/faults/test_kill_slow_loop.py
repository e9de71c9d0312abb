"""kill -9 at every step of learning, promoting and scoring again: no half version, no study mixed, nothing told twice."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from adapters.catalog import query
from adapters.catalog.catalog import SqlCatalog
from adapters.ml.scorer import read_version_weights
from pipeline import rescore
from pipeline.domain import FINDINGS, JobKind, JobState, ModelVersion, ReportState, StudyState, VersionState
from tests.builders.crashing import play
from tests.builders.crashing_learner import STUDY, SlowLine, furnish, let_leases_run_out
from tests.builders.fakes.versions import a_version

RETIRED, SERVING, CANDIDATE, REJECTED = "retired", "serving", "candidate", "rejected"


@pytest.fixture(scope="module")
def promoting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A round of learning waits, and what it makes will serve."""
    folder = tmp_path_factory.mktemp("promoting")
    furnish(folder)
    return folder


@pytest.fixture(scope="module")
def by_hand(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Version 2 was learnt and waits for a person."""
    folder = tmp_path_factory.mktemp("by-hand")
    url = furnish(folder, auto=False)
    assert play("learn", 0, folder, url, SlowLine) is not None
    assert states(url) == [SERVING, CANDIDATE]
    return folder


def copies(template: Path, folder: Path) -> Callable[[str], tuple[Path, str]]:
    def copy(name: str) -> tuple[Path, str]:
        place = folder / name
        shutil.copytree(template, place)
        return place, f"sqlite:///{place / 'catalog.db'}"

    return copy


def deaths(scene: str, copy: Callable[[str], tuple[Path, str]], *, least: int) -> Iterator[tuple[int, Path, str]]:
    """Count the steps of a scene, then kill it at each: the number, the folder and the catalog as the dead process left them."""
    outcome = play(scene, 0, *copy("count"), SlowLine)
    assert outcome is not None
    assert outcome[1] >= least
    for deadly in range(1, outcome[1] + 1):
        folder, url = copy(f"die-{deadly}")
        assert play(scene, deadly, folder, url, SlowLine) is None
        yield deadly, folder, url
        shutil.rmtree(folder)


@contextmanager
def opened(url: str) -> Iterator[SqlCatalog]:
    catalog = SqlCatalog(url)
    try:
        yield catalog
    finally:
        catalog.dispose()


def known(url: str) -> list[ModelVersion]:
    with opened(url) as catalog, catalog.read() as tx:
        return tx.versions.all()


def states(url: str) -> list[str]:
    return [version.state.value for version in known(url)]


def audited(url: str, action: str) -> int:
    with opened(url) as catalog, catalog.read() as tx:
        return int(tx._connection.exec_driver_sql(f"SELECT count(*) FROM audit_events WHERE action = '{action}'").scalar_one())


def assert_whole(folder: Path, url: str) -> None:
    """The row of a version promises its files; exactly one version serves; whatever else lies about is hidden and swept later."""
    found = known(url)
    for version in found[1:]:
        read_version_weights(version, folder / "models")
    assert sum(version.state is VersionState.SERVING for version in found) == 1
    lying = {path.name for path in (folder / "models").iterdir()} - {"versions", "auto"}
    assert all(name.startswith(".") and name.endswith(".part") for name in lying)
    assert {path.name for path in (folder / "models").glob("versions/*")} <= {"2"}


def test_a_version_is_whole_or_not_there_wherever_learning_dies(promoting: Path, tmp_path: Path) -> None:
    seen = set()
    for _, folder, url in deaths("learn", copies(promoting, tmp_path), least=30):
        assert_whole(folder, url)
        seen.add(tuple(states(url)))
        let_leases_run_out(url)
        assert play("learn", 0, folder, url, SlowLine) is not None
        assert_whole(folder, url)
        assert states(url) == [RETIRED, SERVING]
        assert audited(url, "learn") == 1
        with opened(url) as catalog, catalog.read() as tx:
            counts = {state: n for (kind, state), n in tx.jobs.count_by_state().items() if kind is JobKind.LEARN}
        assert counts == {JobState.DONE: 1}
        assert query.run(url, "SELECT result, version FROM v_learning")[1] == [("promoted", 2)]
    assert seen == {(SERVING,), (RETIRED, SERVING)}


def test_a_promotion_is_done_or_not(by_hand: Path, tmp_path: Path) -> None:
    _assert_decided("promote", [SERVING, CANDIDATE], [RETIRED, SERVING], copies(by_hand, tmp_path))


def test_a_rollback_is_done_or_not(promoting: Path, tmp_path: Path) -> None:
    folder, url = copies(promoting, tmp_path)("promoted")
    assert play("learn", 0, folder, url, SlowLine) is not None
    _assert_decided("rollback", [RETIRED, SERVING], [SERVING, REJECTED], copies(folder, tmp_path))


def _assert_decided(verb: str, before: list[str], after: list[str], copy: Callable[[str], tuple[Path, str]]) -> None:
    seen = []
    for _, folder, url in deaths(verb, copy, least=4):
        assert_whole(folder, url)
        decided = states(url)
        seen.append(decided)
        assert audited(url, verb) == int(decided == after)
        again = play(verb, 0, folder, url, SlowLine)
        assert again is not None
        assert again[0] == ("refused" if decided == after else "done")
        assert (states(url), audited(url, verb)) == (after, 1)
    assert seen[0] == before
    assert seen[-1] == after
    assert seen == sorted(seen, key=lambda states: states == after)


def test_the_archive_is_scored_again_once_wherever_the_worker_dies(by_hand: Path, tmp_path: Path) -> None:
    """After every other death a third version comes to serve before the work is taken up again."""
    promoted, url = copies(by_hand, tmp_path)("promoted")
    assert play("promote", 0, promoted, url, SlowLine) is not None
    for deadly, folder, url in deaths("rescore", copies(promoted, tmp_path), least=30):
        serving = 2
        if deadly % 2:
            serving = 3  # no file of it is read here
            with opened(url) as catalog, catalog.begin() as tx:
                tx.versions.add(a_version(3, VersionState.CANDIDATE))
                tx.versions.serve(3)
        let_leases_run_out(url)
        assert play("rescore", 0, folder, url, SlowLine) is not None
        if serving == 3:
            assert play("rescore", 0, folder, url, SlowLine) is not None  # where version 2 had its turn before
        _assert_scored_by(serving, folder, url)


def _assert_scored_by(serving: int, folder: Path, url: str) -> None:
    with opened(url) as catalog:
        assert rescore.rescore(catalog=catalog) == 0
        with catalog.read() as tx:
            scored = [number for number in range(1, serving + 1) if tx.scores.predictions(STUDY, number)]
            assert scored[-1] == serving
            for number in range(1, serving + 1):  # a version has scored all films of the study, or none
                assert len(tx.scores.image_scores(STUDY, number)) == (2 if number in scored else 0)
                assert len(tx.scores.predictions(STUDY, number)) == (len(FINDINGS) if number in scored else 0)
            study, latest = tx.studies.find(STUDY), tx.reports.latest(STUDY)
            assert study is not None
            assert latest is not None
            assert (study.state, study.revision) == (StudyState.REPORTED, len(scored))
            assert (latest.version, latest.revision, latest.state) == (serving, len(scored), ReportState.SENT)
    rows = query.run(url, "SELECT version, sop_instance_uid, state FROM v_reports")[1]
    assert max(Counter(version for version, _, _ in rows).values()) == 1
    arrivals = Counter(path.read_bytes().split()[1].decode() for path in (folder / "archive").iterdir())
    assert set(arrivals) == {uid for _, uid, state in rows if state == "sent"}
    assert max(arrivals.values()) <= 2  # at least once, and the same object
