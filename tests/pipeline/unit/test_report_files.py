"""The file of a report whose commit failed does not stay in the image store; one whose commit is ahead does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pipeline import report
from pipeline.domain import JobKind, StoredFile
from pipeline.errors import LeaseLost, OutOfResources, RadclipdError
from pipeline.ports.services import Transaction
from tests.builders.hospital_in_memory import Hospital


class FailingHospital(Hospital):
    """The commit of a report fails with each of `errors`, in their order."""

    def __init__(self) -> None:
        super().__init__()
        self.errors: list[Exception] = []
        self.comes_through = False
        begin = self.catalog.begin

        @contextmanager
        def begin_and_fail() -> Iterator[Transaction]:
            built = len(self.writer.written)
            if not (self.errors and built and self.images.unclaimed):
                with begin() as tx:
                    yield tx
                return
            error = self.errors.pop(0)
            if self.comes_through:
                with begin() as tx:
                    yield tx
                raise error
            with begin() as tx:
                yield tx
                raise error

        self.catalog.begin = begin_and_fail  # type: ignore[method-assign]

    def report_once(self) -> None:
        self.receive(self.header())
        self.catalog.tick(61)
        self.settle()
        self.work_once(JobKind.SCORE)
        self.work_once(JobKind.REPORT)

    def sweep(self) -> int:
        return report.sweep_unclaimed(catalog=self.catalog, images=self.images, older_than_seconds=3600)

    def report_files(self) -> list[bytes]:
        return [content for content in self.images.files.values() if content.startswith(b"SR")]


def test_a_committed_report_has_its_file_and_nothing_is_swept() -> None:
    hospital = FailingHospital()
    hospital.report_once()
    assert not hospital.images.unclaimed
    assert hospital.sweep() == 0
    assert len(hospital.report_files()) == 1


@pytest.mark.parametrize("error", [LeaseLost("another worker"), RadclipdError("refused")])
def test_the_file_of_a_commit_that_was_refused_is_removed_at_once(error: RadclipdError) -> None:
    hospital = FailingHospital()
    hospital.errors = [error]
    hospital.report_once()
    assert hospital.report_files() == []
    assert not hospital.images.unclaimed


def test_the_file_of_a_commit_that_got_no_answer_is_swept_when_no_row_names_it() -> None:
    hospital = FailingHospital()
    hospital.errors = [OutOfResources("the catalog is away")]
    hospital.report_once()
    assert len(hospital.report_files()) == 1, "the commit may still come through"
    hospital.catalog.tick(60)
    hospital.run()
    assert len(hospital.report_files()) == 2
    assert hospital.sweep() == 1
    assert [content for content in hospital.report_files()] == hospital.archive.kept
    assert hospital.sweep() == 0


def test_the_file_of_a_commit_that_came_through_without_an_answer_stays() -> None:
    hospital = FailingHospital()
    hospital.errors, hospital.comes_through = [OutOfResources("the connection was lost")], True
    hospital.report_once()
    assert hospital.sweep() == 0
    assert len(hospital.report_files()) == 1
    assert not hospital.images.unclaimed


def test_a_report_that_was_swept_before_its_commit_is_built_again() -> None:
    hospital = FailingHospital()
    write = hospital.images.write_unclaimed
    swept: list[StoredFile] = []

    def write_and_sweep(content: bytes, owner: str) -> StoredFile:
        file = write(content, owner)
        if not swept:
            swept.append(file)
            hospital.sweep()
        return file

    hospital.images.write_unclaimed = write_and_sweep  # type: ignore[method-assign]
    hospital.report_once()
    assert hospital.report_files() == []
    hospital.catalog.tick(60)
    hospital.run()
    assert hospital.report_files() == hospital.archive.kept
    assert len(hospital.archive.kept) == 1


def test_a_report_that_came_back_from_the_archive_keeps_its_file() -> None:
    hospital = FailingHospital()
    hospital.report_once()
    (file,) = [hospital.images.file_of(content) for content in hospital.report_files()]
    uid = next(iter(hospital.catalog.tables.reports))
    hospital.catalog.tables.reports.clear()
    hospital.receive(hospital.header(sop=uid, sop_class_uid="1.2.840.10008.5.1.4.1.1.88.33"), hospital.images.read(file))
    hospital.images.unclaimed.add((file, uid))
    assert hospital.sweep() == 0
    assert hospital.images.exists(file)
