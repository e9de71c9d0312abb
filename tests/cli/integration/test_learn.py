"""`radclipd learn` and `radclipd versions` in real processes: DICOM files, a tiny encoder, SQLite."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from adapters.app.compose import Parts
from adapters.app.dispatch import build_learn_trigger
from adapters.app.workers import build_worker_specs
from adapters.catalog import query
from adapters.catalog.catalog import SqlCatalog
from adapters.config import sections as configuration
from adapters.config.sections import LearnConfig
from adapters.ml import importer
from adapters.storage.image_store import FileImageStore
from adapters.storage.model_store import ModelStore
from pipeline import learn, priorities
from pipeline.domain import JobKind, JobState
from pipeline.work import WorkPolicy, work_once
from tests.builders import labelled_archive, tiny
from tests.builders.command import ROOT, Radclipd, radclipd_on


@pytest.fixture
def url(fresh_url: Callable[[str], str]) -> str:
    return fresh_url("sqlite")


@pytest.fixture
def radclipd(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Radclipd:
    """The verbs on an archive of sixteen films, of which every other shows an effusion, and an untrained tiny CLIP that serves."""
    for key, folder in (("MODEL", "models"), ("STORAGE", "images"), ("ACTIVATION_CACHE", "activations")):
        monkeypatch.setenv(f"RADCLIPD_{key}__DIRECTORY", str(tmp_path / folder))
    monkeypatch.setenv("RADCLIPD_LEARN__METHOD", "stage-1")
    monkeypatch.setenv("RADCLIPD_LEARN__PROMOTE", "auto")
    monkeypatch.setenv("RADCLIPD_MODEL__DEVICE", "cpu")
    monkeypatch.setenv("RADCLIPD_SCORE__THREADS", "1")
    catalog, store = SqlCatalog(url), ModelStore(tmp_path / "models")
    (tmp_path / "models").mkdir()
    base = importer.import_untrained_base(store, str(tiny.config_file(tmp_path)), seed=0)
    importer.register_zero_shot(catalog, store, base, serve=True)
    labelled_archive.fill(catalog, FileImageStore(tmp_path / "images"))
    catalog.dispose()
    return radclipd_on(url)


def test_a_version_is_learnt_promoted_and_rolled_back(radclipd: Radclipd, url: str) -> None:
    nothing = radclipd("learn", "--json")
    assert (nothing.returncode, json.loads(nothing.stdout)) == (0, []), nothing.stderr
    assert "nothing to learn: no study" in nothing.stderr
    labelled_archive.label(url)
    learnt = radclipd("learn", "--json")
    assert learnt.returncode == 0, learnt.stderr
    (row,) = json.loads(learnt.stdout)
    assert (row["finding"], row["positives"], row["negatives"]) == ("Effusion", 8, 8)
    assert row["auc"] > 0.9
    listed = {row["number"]: row for row in json.loads(radclipd("versions", "list", "--json").stdout)}
    assert {number: row["state"] for number, row in listed.items()} == {1: "retired", 2: "serving"}, learnt.stderr
    assert "mean AUC" in listed[2]["reason"]
    assert "unchanged (version 2)" in radclipd("learn").stderr
    card = json.loads(radclipd("versions", "show", "2", "--json").stdout)
    assert (card["name"], card["card"]["learning"]["films"]) == ("stage-1 untrained-tiny-0", 16)
    assert "P1" not in json.dumps(card["card"])  # nor anything else of a patient
    assert "Effusion" in radclipd("versions", "show", "2").stdout
    back = radclipd("versions", "rollback", "--reason", "misses small effusions")
    assert (back.returncode, back.stdout) == (0, "version 1 serves again: zero-shot untrained-tiny-0\n"), back.stderr
    again = radclipd("versions", "promote", "2")
    assert (again.returncode, again.stdout.startswith("version 2  stage-1 untrained-tiny-0  serving")) == (0, True), again.stderr
    _, events = query.run(url, "select action, outcome, subject, detail, source from audit_events order by id")
    actions = [tuple(event)[:3] for event in events if event[0] != "model.import"]
    assert actions == [("learn", "done", "version 2"), ("rollback", "done", "version 1"), ("promote", "done", "version 2")]
    assert events[-1][4].startswith("cli")


def test_a_candidate_that_waits_names_the_next_step(radclipd: Radclipd, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RADCLIPD_LEARN__PROMOTE", "manual")
    labelled_archive.label(url)
    learnt = radclipd("learn", "--json")
    assert "waiting (version 2): mean AUC" in learnt.stderr
    assert "next: radclipd versions promote 2" in learnt.stderr
    (row,) = json.loads(learnt.stdout)
    for rate in ("sensitivity", "specificity"):  # of eight cases each
        assert row[f"{rate}_upper"] - row[f"{rate}_lower"] > 0.3
    assert "radclipd versions promote 2" in radclipd("versions", "show", "2").stdout
    assert "version 2 waits for a decision: radclipd versions promote 2" in radclipd("versions", "list").stderr
    assert radclipd("versions", "promote", "2").returncode == 0
    assert "promote 2" not in radclipd("versions", "show", "2").stdout + radclipd("versions", "list").stderr


def test_a_stopped_learner_learns_after_its_next_start(radclipd: Radclipd, url: str, tmp_path: Path) -> None:
    labelled_archive.label(url)
    config = configuration.load(ROOT / "deploy/radclipd.toml")
    config = config.model_copy(update={"catalog": config.catalog.model_copy(update={"url": url})})
    with Parts(config.model_copy(update={"learn": LearnConfig(min_new_labels=16)})) as dispatcher:
        assert build_learn_trigger(dispatcher)()
    parts = Parts(config)
    catalog = parts.catalog
    stopped = True

    def work() -> int:
        (post,) = build_worker_specs(parts, ["learn"], stop_requested=lambda: stopped)
        policy = WorkPolicy(retry_base_seconds=0.001, retry_cap_seconds=0.001)
        return work_once(post, catalog=catalog, worker="w", policy=policy)

    try:
        assert work() == 1
        with catalog.read() as tx:
            assert tx.jobs.count_by_state() == {(JobKind.LEARN, JobState.WAITING): 1}
            assert len(tx.versions.all()) == 1
        stopped = False
        with ModelStore(tmp_path / "models").lock("learn"):  # `radclipd learn` on another terminal
            work()
            assert (busy := radclipd("learn")).returncode == 75
            assert "another process is at work: learn" in busy.stderr
        deadline = time.monotonic() + 30
        while not work() and time.monotonic() < deadline:
            time.sleep(0.01)
        with catalog.read() as tx:
            assert tx.jobs.count_by_state() == {(JobKind.LEARN, JobState.DONE): 1}
            assert [version.state.value for version in tx.versions.all()] == ["retired", "serving"]
    finally:
        parts.close()


def test_learning_pauses_while_a_new_study_waits(radclipd: Radclipd, url: str) -> None:
    """The wait of the learner stands in for the score worker."""
    labelled_archive.label(url)
    config = configuration.load(ROOT / "deploy/radclipd.toml")
    config = config.model_copy(update={"catalog": config.catalog.model_copy(update={"url": url})})
    parts = Parts(config)
    catalog = parts.catalog
    with catalog.begin() as tx:
        tx.jobs.put(JobKind.LEARN, learn.ALL_LABELS)
        tx.jobs.put(JobKind.SCORE, "1.2.0")
        tx.jobs.put(JobKind.SCORE, "1.2.1", priority=priorities.RESCORE)
    rests: list[tuple[str, str]] = []

    def rest(seconds: float) -> None:
        with catalog.begin() as tx:
            if rests:
                (job,) = tx.jobs.claim([JobKind.SCORE], worker="scorer", lease_seconds=60)
                tx.jobs.finish(job)
            rests.append((job.subject if rests else "", query.run(url, "SELECT state FROM v_learning")[1][0][0]))

    (post,) = build_worker_specs(parts, ["learn"], stop_requested=lambda: False, wait=rest)
    try:
        assert work_once(post, catalog=catalog, worker="w", policy=WorkPolicy()) == 1
        assert rests == [("", "running"), ("1.2.0", "running")]
        with catalog.read() as tx:
            counts = tx.jobs.count_by_state()
        assert counts[JobKind.LEARN, JobState.DONE] == 1
        assert counts[JobKind.SCORE, JobState.WAITING] == 1  # of the archive
    finally:
        parts.close()


def test_refusals_are_one_line_and_a_hint(radclipd: Radclipd) -> None:
    for verb in (("promote", "9"), ("promote", "1"), ("reject", "1", "--reason", "x"), ("rollback",), ("show", "9")):
        done = radclipd("versions", *verb)
        assert done.returncode == 1, verb
        assert [line.split(":")[0] for line in done.stderr.splitlines()] == ["radclipd", "hint"], done.stderr
    assert radclipd("versions", "reject", "1", "--reason", " ").returncode == 2
