"""SIGKILL at every step of learning, promotion and rescoring: no partial version, no mixed study, no report twice."""

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
from tests.builders.crashing_learner import STUDY, CrashingSlowLoop, build_installation, expire_leases
from tests.builders.fakes.versions import a_version

RETIRED, SERVING, CANDIDATE, REJECTED = "retired", "serving", "candidate", "rejected"


@pytest.fixture(scope="module")
def promoting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LEARN job waits, and its candidate will be promoted."""
    folder = tmp_path_factory.mktemp("promoting")
    build_installation(folder)
    return folder


@pytest.fixture(scope="module")
def manual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Version 2 is trained and waits for a person to promote it."""
    folder = tmp_path_factory.mktemp("manual")
    url = build_installation(folder, auto=False)
    assert play("learn", 0, folder, url, CrashingSlowLoop) is not None
    assert states(url) == [SERVING, CANDIDATE]
    return folder


def make_copier(template: Path, folder: Path) -> Callable[[str], tuple[Path, str]]:
    def copy(name: str) -> tuple[Path, str]:
        target = folder / name
        shutil.copytree(template, target)
        return target, f"sqlite:///{target / 'catalog.db'}"

    return copy


def kill_at_each_step(scene: str, copy: Callable[[str], tuple[Path, str]], *, least: int) -> Iterator[tuple[int, Path, str]]:
    """Count the steps of a scene, then kill it at each step; yield step, folder and catalog URL as the killed process left them."""
    outcome = play(scene, 0, *copy("count"), CrashingSlowLoop)
    assert outcome is not None
    assert outcome[1] >= least
    for fatal_step in range(1, outcome[1] + 1):
        folder, url = copy(f"die-{fatal_step}")
        assert play(scene, fatal_step, folder, url, CrashingSlowLoop) is None
        yield fatal_step, folder, url
        shutil.rmtree(folder)


@contextmanager
def open_catalog(url: str) -> Iterator[SqlCatalog]:
    catalog = SqlCatalog(url)
    try:
        yield catalog
    finally:
        catalog.dispose()


def all_versions(url: str) -> list[ModelVersion]:
    with open_catalog(url) as catalog, catalog.read() as tx:
        return tx.versions.all()


def states(url: str) -> list[str]:
    return [version.state.value for version in all_versions(url)]


def count_audit_events(url: str, action: str) -> int:
    with open_catalog(url) as catalog, catalog.read() as tx:
        return int(tx._connection.exec_driver_sql(f"SELECT count(*) FROM audit_events WHERE action = '{action}'").scalar_one())


def assert_versions_complete(folder: Path, url: str) -> None:
    """Every version row has its files; exactly one version serves; other files are hidden, and swept later."""
    found = all_versions(url)
    for version in found[1:]:
        read_version_weights(version, folder / "models")
    assert sum(version.state is VersionState.SERVING for version in found) == 1
    leftovers = {path.name for path in (folder / "models").iterdir()} - {"versions", "auto"}
    assert all(name.startswith(".") and name.endswith(".part") for name in leftovers)
    assert {path.name for path in (folder / "models").glob("versions/*")} <= {"2"}


def test_a_version_is_complete_or_absent_wherever_learning_is_killed(promoting: Path, tmp_path: Path) -> None:
    seen = set()
    for _, folder, url in kill_at_each_step("learn", make_copier(promoting, tmp_path), least=30):
        assert_versions_complete(folder, url)
        seen.add(tuple(states(url)))
        expire_leases(url)
        assert play("learn", 0, folder, url, CrashingSlowLoop) is not None
        assert_versions_complete(folder, url)
        assert states(url) == [RETIRED, SERVING]
        assert count_audit_events(url, "learn") == 1
        with open_catalog(url) as catalog, catalog.read() as tx:
            counts = {state: n for (kind, state), n in tx.jobs.count_by_state().items() if kind is JobKind.LEARN}
        assert counts == {JobState.DONE: 1}
        assert query.run(url, "SELECT result, version FROM v_learning")[1] == [("promoted", 2)]
    assert seen == {(SERVING,), (RETIRED, SERVING)}


def test_a_killed_promotion_is_complete_or_absent(manual: Path, tmp_path: Path) -> None:
    _assert_decided("promote", [SERVING, CANDIDATE], [RETIRED, SERVING], make_copier(manual, tmp_path))


def test_a_killed_rollback_is_complete_or_absent(promoting: Path, tmp_path: Path) -> None:
    folder, url = make_copier(promoting, tmp_path)("promoted")
    assert play("learn", 0, folder, url, CrashingSlowLoop) is not None
    _assert_decided("rollback", [RETIRED, SERVING], [SERVING, REJECTED], make_copier(folder, tmp_path))


def _assert_decided(verb: str, before: list[str], after: list[str], copy: Callable[[str], tuple[Path, str]]) -> None:
    seen = []
    for _, folder, url in kill_at_each_step(verb, copy, least=4):
        assert_versions_complete(folder, url)
        decided = states(url)
        seen.append(decided)
        assert count_audit_events(url, verb) == int(decided == after)
        again = play(verb, 0, folder, url, CrashingSlowLoop)
        assert again is not None
        assert again[0] == ("refused" if decided == after else "done")
        assert (states(url), count_audit_events(url, verb)) == (after, 1)
    assert seen[0] == before
    assert seen[-1] == after
    assert seen == sorted(seen, key=lambda states: states == after)


def test_the_archive_is_rescored_once_wherever_the_worker_is_killed(manual: Path, tmp_path: Path) -> None:
    """After every other kill a third version is promoted before the work resumes."""
    promoted, url = make_copier(manual, tmp_path)("promoted")
    assert play("promote", 0, promoted, url, CrashingSlowLoop) is not None
    for fatal_step, folder, url in kill_at_each_step("rescore", make_copier(promoted, tmp_path), least=30):
        serving = 2
        if fatal_step % 2:
            serving = 3  # without files, which are not read here
            with open_catalog(url) as catalog, catalog.begin() as tx:
                tx.versions.add(a_version(3, VersionState.CANDIDATE))
                tx.versions.serve(3)
        expire_leases(url)
        assert play("rescore", 0, folder, url, CrashingSlowLoop) is not None
        if serving == 3:
            assert play("rescore", 0, folder, url, CrashingSlowLoop) is not None  # version 2 may have scored before
        _assert_scored_by(serving, folder, url)


def _assert_scored_by(serving: int, folder: Path, url: str) -> None:
    with open_catalog(url) as catalog:
        assert rescore.rescore(catalog=catalog) == 0
        with catalog.read() as tx:
            scored = [number for number in range(1, serving + 1) if tx.scores.predictions(STUDY, number)]
            assert scored[-1] == serving
            for number in range(1, serving + 1):  # a version has scored all images of the study, or none
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
