"""`radclipd score`: files on this disk, the serving version, and the objects of their reports, without a daemon."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from adapters.app.compose import Parts
from adapters.app.report_policies import report_policy, report_settings, score_policy
from pipeline.domain import StoredInstance, VisibleKind
from pipeline.errors import OutOfResources, PermanentError
from pipeline.file_scoring import FileScoring, ScoredStudy

if TYPE_CHECKING:
    from adapters.config.sections import Config
    from adapters.dicom.sr.writer import SrWriter

ROOT = Path("/")
"""The folder of an image store that holds every file of this host; the key of a file is its path below it."""


@dataclass(frozen=True, slots=True)
class FileFault:
    """A file without a score, and why."""

    file: Path
    reason: str
    remedy: str


FaultCallback = Callable[[FileFault], None]


@dataclass(frozen=True, slots=True)
class FileScorer:
    """Scores files, and writes the objects of their reports."""

    scoring: FileScoring
    parts: Parts  # with ROOT as image store
    writer: SrWriter

    def score(self, paths: Iterable[Path], on_fault: FaultCallback) -> Iterator[ScoredStudy]:
        """Yield the studies of these files and folders. `on_fault` takes each file that cannot be read."""
        for study in self.scoring.score(list(self._read_instances(paths, on_fault))):
            for instance, error in study.unreadable:
                on_fault(FileFault(locate(instance), str(error), error.hint))
            yield study

    def _read_instances(self, paths: Iterable[Path], on_fault: FaultCallback) -> Iterator[StoredInstance]:
        """Yield an instance for each DICOM file; the same file again is left out."""
        from adapters.dicom.sources.files import list_files, read_header

        found: dict[str, StoredInstance] = {}
        for path in (file.absolute() for named in paths for file in list_files(named)):
            try:
                header, content = read_header(path)
                file = replace(self.parts.images.file_of(content), key=str(path.relative_to(ROOT)))
                known = found.setdefault(header.sop_instance_uid, StoredInstance(header, file, datetime.now(UTC)))
                if known.file.sha256 != file.sha256:
                    raise PermanentError(
                        f"is another instance with the SOP Instance UID of {locate(known)}", hint="its sender must give a new UID"
                    )
            except PermanentError as error:
                on_fault(FileFault(path, str(error), error.hint))
            else:
                if known.file.key == file.key:
                    yield known

    def write_objects(self, study: ScoredStudy, folder: Path) -> list[Path]:
        """Write the SR and the visible objects of a scored study; return their paths. ReportImpossible, OutOfResources."""
        objects = self.scoring.write_report(study, self.writer, made_at=datetime.now(UTC))
        written = []
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for uid, content in objects.items():
                written.append(folder / f"{uid}.dcm")
                written[-1].write_bytes(content)
        except OSError as error:
            raise OutOfResources(
                f"{folder}: {error.strerror}", hint="name a folder that this user may write, on a disk with room"
            ) from error
        return written


def locate(instance: StoredInstance) -> Path:
    """Return the path of an instance's file."""
    return ROOT / instance.file.key


@contextmanager
def open_file_scorer(config: Config) -> Iterator[FileScorer]:
    """Load the serving version; give the scorer. NoWeights, WeightsRejected, ReportingStopped."""
    from adapters.dicom.sr.writer import SrWriter
    from adapters.ml.scorer import ClipScorers

    at_root = config.storage.model_copy(update={"directory": ROOT})
    with Parts(config.model_copy(update={"storage": at_root})) as parts:
        scorers = ClipScorers(
            config.model.directory,
            device=config.model.device,
            batch_size=config.score.batch_size,
            threads=config.score.threads,
            precision=config.score.precision,
        )
        scoring = FileScoring(
            catalog=parts.catalog,
            pixels=parts.decoders,
            scorers=scorers,
            policy=score_policy(config),
            reporting=report_policy(config),
        )
        settings = report_settings(config)
        pixels = parts.thumbnail_decoder if VisibleKind.CARD in settings.visible else None
        yield FileScorer(scoring, parts, SrWriter(settings, parts.images, pixels, scope=uuid.uuid4().hex))
