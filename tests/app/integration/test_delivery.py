"""A report on its way to a real archive: sent, found there, lost there, sent again; by query and by storage commitment."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from adapters.app.compose import Parts
from adapters.app.dispatch import build_reconciliation, build_verification
from adapters.app.listen import build_listener, open_sockets
from adapters.app.policies import delivery_policy
from adapters.app.workers import build_worker_specs
from adapters.config.sections import Config
from adapters.demo.embedded_archive import EmbeddedArchive
from adapters.demo.loopback import free_ports
from adapters.demo.orthanc import OrthancServer, find_program
from adapters.dicom.image import part10
from pipeline import deliveries, work
from pipeline.domain import JobKind, Report, ReportState
from tests.builders import peers
from tests.builders.catalog_rows import SENDER, chest_header
from tests.builders.dicom_files import dx, file_of
from tests.builders.fakes.versions import a_version
from tests.builders.reception import wait_for
from tests.builders.report_of import report_on
from tests.builders.sql import rows


@dataclass
class Line:
    """An installation without a model, a study with a built report, and the archive that holds the study's film."""

    parts: Parts
    archive: EmbeddedArchive | OrthancServer
    report: Report

    def send(self) -> None:
        """Work off the waiting SEND job."""
        spec = build_worker_specs(self.parts, ["report"], stop_requested=lambda: False)[1]
        assert work.work_once(spec, catalog=self.parts.catalog, worker="w", policy=work.WorkPolicy()) == 1

    def delivery(self) -> tuple[Any, ...]:
        (found,) = rows(self.parts.config.catalog.url, "SELECT state, status, sendings FROM v_deliveries")
        return found

    def lose_report(self) -> None:
        """Let the archive lose the report, and keep the film."""
        if isinstance(self.archive, EmbeddedArchive):
            self.archive.list_files(self.report.study_instance_uid)[-1].unlink()
            return
        (instance,) = self.archive.find_instances(self.report.study_instance_uid, "SR")
        self.archive._request_bytes("DELETE", f"/instances/{instance}")


def make_config(folder: Path, archive_port: int, **archive: Any) -> Config:
    (port,) = free_ports(1)
    return Config(
        listener={"host": "127.0.0.1", "port": port, "processes": 1},  # type: ignore[arg-type]  # pydantic makes the sections
        archive={"port": archive_port, "timeout_seconds": 5, **archive},  # type: ignore[arg-type]
        storage={"directory": folder / "images", "min_free": "1MiB"},  # type: ignore[arg-type]
        catalog={"url": f"sqlite:///{folder / 'catalog.db'}"},  # type: ignore[arg-type]
        model={"directory": folder / "models"},  # type: ignore[arg-type]
    )


@contextmanager
def a_line(folder: Path, template: Path, config: Config, archive: EmbeddedArchive | OrthancServer) -> Iterator[Line]:
    (folder / "catalog.db").write_bytes(template.read_bytes())
    film = dx(PatientName="PHANTOM^DELIVERY")
    sr = file_of(report_on(film))
    header = part10.read_header(*part10.split_file(sr))
    pending = Report(
        sop_instance_uid=header.sop_instance_uid,
        series_instance_uid=header.series_instance_uid,
        study_instance_uid=header.study_instance_uid,
        version=1,
        revision=1,
        state=ReportState.PENDING,
        sop_class_uid=header.sop_class_uid,
    )
    (archive.store if isinstance(archive, EmbeddedArchive) else archive.upload)(file_of(film))
    with Parts(config) as parts:
        file = parts.images.write_unclaimed(sr, header.sop_instance_uid)
        with parts.catalog.begin() as tx:
            tx.versions.add(a_version())
            tx.studies.add_instance(chest_header(header.study_instance_uid, film.SOPInstanceUID), file, SENDER, opens_study=True)
            tx.reports.ensure_pending(pending)
            tx.reports.mark_built(header.sop_instance_uid, file)
            tx.jobs.put(JobKind.SEND, header.sop_instance_uid)
        yield Line(parts, archive, pending)


@pytest.fixture(params=["embedded", pytest.param("orthanc", marks=pytest.mark.orthanc)])
def line(request: pytest.FixtureRequest, tmp_path: Path, sqlite_template: Path) -> Iterator[Line]:
    if request.param == "embedded":
        archive = EmbeddedArchive(tmp_path / "archive")
        with a_line(tmp_path, sqlite_template, make_config(tmp_path, archive.port), archive) as made:
            yield made
        archive.stop()
        return
    if find_program() is None:
        peers.absent("Orthanc is not installed (Debian package orthanc)")
    orthanc = OrthancServer(tmp_path / "orthanc", radclipd_port=free_ports(1)[0], forward=False)
    with orthanc, a_line(tmp_path, sqlite_template, make_config(tmp_path, orthanc.dicom_port), orthanc) as made:
        yield made


def test_what_the_archive_has_lost_is_found_at_night_and_sent_again(line: Line) -> None:
    catalog, archive = line.parts.catalog, line.parts.archive
    line.send()
    assert line.delivery() == ("sent", "0x0000", 1)
    policy = replace(delivery_policy(line.parts.config), settle_seconds=0)
    found = deliveries.verify_deliveries(catalog=catalog, archive=archive, policy=policy)
    assert (found.asked, found.found) == (1, 1)
    assert line.delivery() == ("verified", "found in the archive", 0)

    line.lose_report()
    build_reconciliation(line.parts)()
    assert line.delivery() == ("waiting", "the archive has accepted it and does not hold it", 0)
    line.send()
    build_reconciliation(line.parts)()
    assert line.delivery() == ("verified", "found in the archive", 0)


@pytest.mark.orthanc
def test_orthanc_takes_over_the_safekeeping_of_a_report(tmp_path: Path, sqlite_template: Path) -> None:
    if find_program() is None:
        peers.absent("Orthanc is not installed (Debian package orthanc)")
    config = make_config(tmp_path, dicom_port := free_ports(1)[0], verification="commitment")
    overrides = {"DicomPort": dicom_port}
    with (
        OrthancServer(tmp_path / "orthanc", radclipd_port=config.listener.port, forward=False, overrides=overrides) as orthanc,
        a_line(tmp_path, sqlite_template, config, orthanc) as line,
    ):
        listener = build_listener(line.parts)
        listener.start(*open_sockets(config))
        try:
            line.send()
            build_verification(line.parts)()
            wait_for(lambda: line.delivery()[0] == "committed", 20)
        finally:
            listener.drain(5)
        assert line.delivery() == ("committed", "committed by the archive", 0)
