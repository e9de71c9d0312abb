"""`radclipd check --repair`: catalog and image store compared, row by row and file by file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from adapters.catalog.catalog import SqlCatalog
from adapters.storage.image_store import FileImageStore
from pipeline.domain import AuditEvent
from pipeline.errors import RadclipdError
from pipeline.fetch import FileFetch
from pipeline.retention import FileRetention, RetentionPolicy

MIN_AGE_SECONDS = 3600.0
"""Younger files may belong to a transaction that is not committed yet."""
ROWS_PER_QUERY = 500


@dataclass(frozen=True, slots=True)
class Irregularity:
    """A difference of catalog and store."""

    kind: str
    subject: str  # a UID, a path below the store, or a job
    outcome: str  # how it was mended, or the remedy
    is_mended: bool = False


@dataclass(kw_only=True)
class StoreInspection:
    """One inspection; with `repair` it mends what is safe to mend. `file_fetch`: None where the archive is not asked."""

    catalog: SqlCatalog
    images: FileImageStore
    repair: bool
    file_fetch: FileFetch | None = None
    min_age_seconds: float = MIN_AGE_SECONDS

    def run(self) -> Iterator[Irregularity]:
        """Yield what is found. OutOfResources."""
        yield from self._inspect_deletions()
        yield from self._inspect_lost_files()
        yield from self._inspect_reports()
        yield from self._inspect_orphans()
        yield from self._inspect_jobs()

    def _inspect_deletions(self) -> Iterator[Irregularity]:
        with self.catalog.read() as tx:
            found = tx.retention.deleting(limit=ROWS_PER_QUERY)
        if self.repair and found:
            policy = RetentionPolicy(min_free_bytes=0, min_days=0)
            FileRetention(catalog=self.catalog, images=self.images, policy=policy).run()
        for uid in found:
            yield Irregularity("half deletion", uid, "finished" if self.repair else "--repair finishes it", self.repair)

    def _inspect_lost_files(self) -> Iterator[Irregularity]:
        lost = dict.fromkeys(study for study, is_there in self._walk_stored_files() if not is_there)
        for study in lost:
            if not self.repair or self.file_fetch is None:
                yield Irregularity("lost file", study, "--repair, or radclipd studies fetch, fetches it from the archive")
                continue
            try:
                yield Irregularity("lost file", study, f"{self.file_fetch.fetch_study(study)} fetched from the archive", True)
            except RadclipdError as error:
                yield Irregularity("lost file", study, f"{error}; send the study again")

    def _walk_stored_files(self) -> Iterator[tuple[str, bool]]:
        after = 0
        while True:
            with self.catalog.read() as tx:
                rows = tx.inventory.stored_files(after=after, limit=ROWS_PER_QUERY)
            if not rows:
                return
            after = rows[-1][0]
            yield from ((study, self.images.exists(file)) for _, study, file in rows)

    def _inspect_reports(self) -> Iterator[Irregularity]:
        with self.catalog.read() as tx:
            files = tx.inventory.report_files()
        for uid, file in files:
            if not self.images.exists(file):
                yield Irregularity("report without bytes", uid, "restore it from the backup, or take it from the archive")

    def _inspect_orphans(self) -> Iterator[Irregularity]:
        for some in _split_batches(self.images.list_files(older_than_seconds=self.min_age_seconds)):
            with self.catalog.read() as tx:
                unknown = tx.inventory.unknown_among({digest for digest, _ in some if digest})
            for path in (path for digest, path in some if not digest or digest in unknown):
                name = str(path.relative_to(self.images.root))
                if self.repair:  # no sender was told Success for a file without a row
                    path.unlink(missing_ok=True)
                    with self.catalog.begin() as tx:
                        tx.audit(AuditEvent("repair", "done", "", f"orphan file {name} removed"))
                yield Irregularity("orphan file", name, "removed" if self.repair else "--repair removes it", self.repair)

    def _inspect_jobs(self) -> Iterator[Irregularity]:
        with self.catalog.read() as tx:
            found = tx.inventory.jobs_without_subject()
        for number, kind, subject in found:
            yield Irregularity(
                "job without subject", f"{kind} job {number}", f"{subject} is not in the catalog: keep and report it"
            )


def _split_batches(files: Iterable[tuple[str, Path]]) -> Iterator[list[tuple[str, Path]]]:
    some: list[tuple[str, Path]] = []
    for one in files:
        some.append(one)
        if len(some) == ROWS_PER_QUERY:
            yield some
            some = []
    if some:
        yield some
