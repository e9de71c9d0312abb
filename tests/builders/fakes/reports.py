"""Fakes of ports.ReportWriter and ports.Archive."""

from __future__ import annotations

from pipeline.domain import (
    Report,
    ReportState,
)
from pipeline.errors import ArchiveUnreachable
from pipeline.ports.services import (
    Archive,
    ReportContent,
    ReportWriter,
)


class FakeReportWriter:
    """ports.ReportWriter: the report as a line of text."""

    def __init__(self) -> None:
        self.written: list[ReportContent] = []

    def pending_report(self, study_instance_uid: str, version: int, revision: int) -> Report:
        uid = f"{study_instance_uid}.{version}.{revision}"
        return Report(
            sop_instance_uid=uid,
            series_instance_uid=f"{uid}.0",
            study_instance_uid=study_instance_uid,
            version=version,
            revision=revision,
            state=ReportState.PENDING,
        )

    def write(self, content: ReportContent) -> bytes:
        self.written.append(content)
        return f"SR {content.report.sop_instance_uid} {len(self.written)}".encode()


class FakeArchive:
    """ports.Archive: stores every content; `errors` are raised first, one for each call."""

    name = "FAKE"

    def __init__(self) -> None:
        self.kept: list[bytes] = []
        self.errors: list[Exception] = []
        self.counts: dict[str, int] = {}
        self.reachable = True

    def store(self, content: bytes) -> str:
        if not self.reachable:
            raise ArchiveUnreachable("FAKE does not answer")
        if self.errors:
            raise self.errors.pop(0)
        self.kept.append(content)
        return "0x0000 Success"

    def count_instances(self, study_instance_uid: str, *, limit_seconds: float) -> int | None:
        if not self.reachable:
            raise ArchiveUnreachable("FAKE does not answer")
        return self.counts.get(study_instance_uid)

    def echo(self) -> None:
        if not self.reachable:
            raise ArchiveUnreachable("FAKE does not answer")


# The type checker holds each fake against its port.
def _writer(fake: FakeReportWriter) -> ReportWriter:
    return fake


def _archive(fake: FakeArchive) -> Archive:
    return fake
