"""The daemon is ready before its encoder is loaded; score jobs wait for it."""

from __future__ import annotations

from pathlib import Path

from adapters.catalog.catalog import SqlCatalog
from adapters.storage.image_store import FileImageStore
from pipeline.domain import JobKind, JobState
from tests.builders import labelled_archive
from tests.builders.installation import Installation, wait_for
from tests.builders.notified import Notified

LOADED = '"event": "model loaded"'


def test_the_daemon_is_ready_before_the_encoder_is_loaded_and_jobs_wait(tmp_path: Path, template: Installation) -> None:
    place = Installation(tmp_path)
    place.copy_of(template)
    catalog = SqlCatalog(place.url)

    def scored() -> int:
        with catalog.read() as tx:
            return tx.jobs.count_by_state().get((JobKind.SCORE, JobState.DONE), 0)

    with Notified(tmp_path / "notify") as systemd, place.running(environment=systemd.environment):
        systemd.ready(120)
        labelled_archive.reported_film(catalog, FileImageStore(tmp_path / "images"), 1, effusion=False)
        with catalog.begin() as tx:
            tx.jobs.put(JobKind.SCORE, "1.2.1")
        assert scored() == 0
        assert LOADED not in place.read_log()
        wait_for(scored, 240, place.read_log)
        assert LOADED in place.read_log()
    catalog.dispose()
