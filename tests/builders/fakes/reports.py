"""Fakes of ports.ReportWriter and ports.Archive."""

from __future__ import annotations

from pipeline.domain import (
    Report,
    ReportState,
    VisibleKind,
    VisibleObject,
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
        self.visible: list[VisibleKind] = []

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

    def pending_visible(self, content: ReportContent) -> list[VisibleObject]:
        uid = content.report.sop_instance_uid
        return [
            VisibleObject(
                sop_instance_uid=f"{uid}.{number}",
                series_instance_uid=f"{uid}.{number}.0",
                report=uid,
                kind=kind,
                state=ReportState.PENDING,
            )
            for number, kind in enumerate(self.visible, 1)
        ]

    def write_visible(self, content: ReportContent, visible: VisibleObject, predecessor: VisibleObject | None) -> bytes:
        follows = f" follows {predecessor.sop_instance_uid}" if predecessor else ""
        return f"{visible.kind} {visible.sop_instance_uid}{follows}".encode()


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
