"""SIGKILL between every two durability steps of the fast line: no acknowledged file is lost, no study reported twice."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from pathlib import Path

from adapters.catalog.catalog import SqlCatalog
from adapters.storage.image_store import FileImageStore
from pipeline.domain import FINDINGS, ReportState, StudyState
from tests.builders.crashing import play, prepare


def count_steps(scene: str, folder: Path, url: str) -> int:
    outcome = play(scene, 0, folder, url)
    assert outcome is not None
    return outcome[1]


def play_to_the_end(scene: str, folder: Path, url: str) -> str | None:
    played = play(scene, 0, folder, url)
    return played and played[0]


def test_acknowledged_files_are_stored_and_others_can_be_sent_again(tmp_path: Path) -> None:
    steps = count_steps("receive", *_fresh(tmp_path / "count"))
    assert steps >= 8  # file, its folders and the row: each before and after
    for fatal_step in range(1, steps + 1):
        folder, url = _fresh(tmp_path / f"die-{fatal_step}")
        assert play("receive", fatal_step, folder, url) is None
        catalog, images = SqlCatalog(url), FileImageStore(folder / "images")
        with catalog.read() as tx:
            row = tx.studies.find_instance("1.2.3.4")
        if row is not None:  # the row promises the file
            assert hashlib.sha256(images.read(row.file)).hexdigest() == row.file.sha256
        assert play_to_the_end("receive", folder, url) == ("stored" if row is None else "duplicate")
        with catalog.read() as tx:
            assert len(tx.studies.instances("1.2.3")) == 1
        assert len(list((folder / "images").rglob("*.dcm"))) == 1
        catalog.dispose()


def test_a_study_is_scored_and_reported_once_wherever_the_worker_is_killed(tmp_path: Path) -> None:
    folder, url = _fresh(tmp_path / "count")
    play("receive", 0, folder, url)
    steps = count_steps("work", folder, url)
    assert steps >= 14
    for fatal_step in range(1, steps + 1):
        folder, url = _fresh(tmp_path / f"die-{fatal_step}")
        assert play_to_the_end("receive", folder, url) == "stored"
        assert play("work", fatal_step, folder, url) is None
        time.sleep(0.35)  # the dead worker's lease
        assert play_to_the_end("work", folder, url) == "worked"
        _assert_reported_once(folder, url)


def _fresh(folder: Path) -> tuple[Path, str]:
    folder.mkdir()
    url = f"sqlite:///{folder / 'catalog.db'}"
    prepare(url)
    return folder, url


def _assert_reported_once(folder: Path, url: str) -> None:
    catalog = SqlCatalog(url)
    with catalog.read() as tx:
        study = tx.studies.find("1.2.3")
        assert study is not None
        assert (study.state, study.revision) == (StudyState.REPORTED, 1)
        assert [p.finding for p in tx.scores.predictions("1.2.3", 1)] == list(FINDINGS)
        latest = tx.reports.latest("1.2.3")
        visible = tx.reports.visible_objects(latest.sop_instance_uid) if latest else []
    catalog.dispose()
    assert latest is not None
    assert (latest.state, latest.predecessor) == (ReportState.SENT, None)
    assert [one.state for one in visible] == [ReportState.SENT]
    arrivals = Counter(path.read_bytes().split()[1].decode() for path in (folder / "archive").iterdir())
    assert set(arrivals) == {latest.sop_instance_uid, visible[0].sop_instance_uid}  # the same objects ...
    assert set(arrivals.values()) <= {1, 2}  # ... at least once
    assert arrivals.total() <= 3  # and no more than one of them again
