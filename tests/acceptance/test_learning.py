"""The learn worker as a process: stopped, killed, and scoring between two steps."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from adapters.catalog.catalog import SqlCatalog
from adapters.storage.image_store import FileImageStore
from pipeline import learn
from pipeline.domain import JobKind
from tests.builders import labelled_archive, ranks
from tests.builders.installation import Installation, kill, wait_for

PATIENCE = 300.0
"""Seconds, on a busy machine."""


@pytest.fixture
def place(tmp_path: Path, template: Installation) -> Installation:
    """An installation with a queued round of learning of more than a thousand steps."""
    settings = {"method": "partial", "unfrozen_blocks": 1, "min_gate_patients": 4, "folds": 8}
    installation = Installation(tmp_path, learn=settings, activation_cache={"directory": str(tmp_path / "activations")})
    installation.copy_of(template)
    catalog = SqlCatalog(installation.url)
    labelled_archive.fill(catalog, FileImageStore(tmp_path / "images"))
    labelled_archive.label(installation.url)
    assert learn.enqueue_learning(catalog=catalog, min_new_labels=1)
    catalog.dispose()
    return installation


def ask(place: Installation, sql: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(place.folder / "catalog.db", timeout=30)) as connection:
        return connection.execute(sql).fetchall()


def learning(place: Installation) -> tuple[Any, ...]:
    (row,) = ask(place, "SELECT state, stage, error FROM v_learning")
    return row


class Workers:
    """Starts workers and ends all of them."""

    def __init__(self, place: Installation) -> None:
        self._place, self._started = place, list[subprocess.Popen[bytes]]()

    def start(self, *kinds: str) -> subprocess.Popen[bytes]:
        self._started.append(self._place.start("work", *kinds))
        return self._started[-1]

    def begun(self, *kinds: str) -> subprocess.Popen[bytes]:
        """Start a worker and return once it has started its steps."""
        process = self.start(*kinds)
        wait_for(lambda: process.poll() is not None or learning(self._place)[1] == "unfreezing", PATIENCE, self._place.read_log)
        assert process.poll() is None, self._place.read_log()
        return process

    def sweep(self) -> None:
        for process in self._started:
            if process.poll() is None:
                kill(process.pid)
            process.wait(PATIENCE)


@pytest.fixture
def workers(place: Installation) -> Iterator[Workers]:
    made = Workers(place)
    yield made
    made.sweep()


def ended(process: subprocess.Popen[bytes]) -> int:
    process.send_signal(signal.SIGTERM)
    return process.wait(PATIENCE)


def test_learning_resumes_after_a_stop_and_a_kill_and_completes(place: Installation, workers: Workers) -> None:
    assert ended(workers.begun("learn")) == 0
    state, _, error = learning(place)
    assert state == "waiting"
    assert "stop requested while at unfreezing" in error
    killed = workers.begun("learn")
    kill(killed.pid)
    assert killed.wait(PATIENCE) == -signal.SIGKILL
    assert learning(place)[0] == "running"  # until its lease has expired
    assert ask(place, "SELECT number FROM v_model_versions") == [(1,)]
    assert [path.name for path in (place.folder / "models").glob("versions/*")] == ["1"]
    last = workers.start("learn")
    wait_for(lambda: last.poll() is not None or learning(place)[0] == "done", PATIENCE, place.read_log)
    assert ask(place, "SELECT version, attempts FROM v_learning") == [(2, 2)], place.read_log()  # only the kill counts
    assert ended(last) == 0
    assert "last round of learning" in place.run("versions", "list").stderr
    assert place.run("versions", "show", "2", "--json").stdout


def test_a_process_scores_between_two_optimiser_steps(place: Installation, workers: Workers) -> None:
    worker = workers.begun("score", "learn")
    catalog = SqlCatalog(place.url)
    with catalog.begin() as tx:
        tx.jobs.put(JobKind.SCORE, "1.2.0")
    catalog.dispose()
    wait_for(lambda: worker.poll() is not None or learning(place)[0] == "done", PATIENCE, place.read_log)
    ends = ask(place, "SELECT kind, state, attempts FROM v_jobs WHERE kind <> 'report' ORDER BY finished_at")
    assert ends == [("score", "done", 1), ("learn", "done", 1)], place.read_log()
    assert ask(place, "SELECT count(*) FROM v_predictions WHERE version = 1") == [(14,)]
    assert ended(worker) == 0


def test_ranks_stop_with_the_worker_and_end_when_it_is_killed(
    place: Installation, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RADCLIPD_LEARN__DEVICES", "2")
    for end in (signal.SIGTERM, signal.SIGKILL):
        worker = workers.begun("learn")
        wait_for(lambda: len(ranks.of_ranks(worker.pid)) == 3, PATIENCE, place.read_log)  # noqa: B023 - called at once
        started = ranks.of_ranks(worker.pid)  # torchrun and two ranks
        worker.send_signal(end)
        assert worker.wait(PATIENCE) == (0 if end == signal.SIGTERM else -end)
        wait_for(lambda: not any(map(ranks.runs, started)), 30, place.read_log)  # noqa: B023 - called at once
        assert ask(place, "SELECT number FROM v_model_versions") == [(1,)]
        assert [path.name for path in (place.folder / "models").glob("versions/*")] == ["1"]
