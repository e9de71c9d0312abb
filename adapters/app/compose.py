"""The composition root: the parts of the daemon, as one configuration has them.

Each part imports its libraries on its first use, so a process loads only the libraries of its own parts. No part here needs torch.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Self

from adapters.ipc.wakeup import WakeupSockets
from pipeline import versions
from pipeline.domain import JobKind, ModelVersion, StoredFile
from pipeline.finding_names import parse_findings

if TYPE_CHECKING:
    from adapters.audit.syslog import SyslogRepository
    from adapters.catalog.catalog import SqlCatalog
    from adapters.config.sections import Config
    from adapters.dicom.image.comparison_process import ComparisonProcess
    from adapters.dicom.image.decode_pool import DecodePool
    from adapters.dicom.network.archive import DicomArchive
    from adapters.dicom.network.tls import TlsEndpoint
    from adapters.dicom.sr.label_reader import DicomDocumentReader
    from adapters.storage.image_store import FileImageStore
    from adapters.storage.model_store import ModelStore

MAX_DEFAULT_DECODERS = 8
"""Decoding processes where `score.decode_processes` is 0: one a processor, up to this number."""
KNOWN_FILES = 5
"""Files of the catalog of which a folder must hold one to be taken for the image store."""
REPORT_WORKER_KINDS = (JobKind.REPORT, JobKind.SEND)
"""Jobs that a report worker works off."""


class Parts:
    """The parts of one process: each is made once, on its first use, and closed once, in reverse order, with the context.

    Not to be carried over a fork. A part that several threads share is made before they start.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self._closing = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close_at_end(self, close: Callable[[], None]) -> None:
        """Let `close()` close a part of the caller's, too."""
        self._closing.callback(close)

    def close(self) -> None:
        """Close the parts that were made, the last one first."""
        self._closing.close()

    @cached_property
    def catalog(self) -> SqlCatalog:
        """The catalog. OutOfResources where it is unreachable, SchemaMismatch where its schema is not this release's."""
        from adapters.catalog.catalog import SqlCatalog

        wanted = self.config.catalog
        catalog = SqlCatalog.open(wanted.url, busy_timeout_seconds=wanted.busy_timeout_seconds, wake=self.wakeups.wake)
        self._closing.callback(catalog.dispose)
        return catalog

    @cached_property
    def wakeups(self) -> WakeupSockets:
        """The wake-ups of the catalog's processes on this host."""
        return WakeupSockets(self.config.catalog.url)

    @cached_property
    def images(self) -> FileImageStore:
        """The image store."""
        from adapters.storage.image_store import FileImageStore

        def list_known_files() -> Sequence[StoredFile]:
            with self.catalog.read() as tx:
                return tx.studies.newest_files(limit=KNOWN_FILES)

        return FileImageStore(self.config.storage.directory, list_known_files)

    @cached_property
    def comparison(self) -> ComparisonProcess:
        """The process that compares an incoming file with the stored one. It starts on its first use."""
        from adapters.dicom.image.comparison_process import ComparisonProcess

        process = ComparisonProcess(self.config.storage.directory)
        self._closing.callback(process.close)
        return process

    @cached_property
    def models(self) -> ModelStore:
        """The model store."""
        from adapters.storage.model_store import ModelStore

        return ModelStore(self.config.model.directory)

    @cached_property
    def archive(self) -> DicomArchive:
        """The client of the archive. An association is opened at each request."""
        from adapters.dicom.network.archive import ArchiveSettings, DicomArchive

        wanted = self.config.archive
        tls = self.tls if wanted.tls else None
        return DicomArchive(
            ArchiveSettings(
                ae_title=wanted.ae_title,
                host=wanted.host,
                port=wanted.port,
                calling_ae_title=wanted.calling_ae_title or self.config.listener.ae_title,
                timeout_seconds=wanted.timeout_seconds,
            ),
            tls,
        )

    @cached_property
    def tls(self) -> TlsEndpoint | None:
        """The certificates of DICOM TLS; None where `[tls]` names none. ConfigurationError where a credential is not passed."""
        return make_tls_endpoint(self.config)

    @cached_property
    def audit_repository(self) -> SyslogRepository:
        """The hospital's audit repository. A connection is opened for each delivery."""
        from adapters.audit.dicom_message import AuditSource
        from adapters.audit.syslog import SyslogRepository, SyslogSettings

        wanted = self.config.audit
        return SyslogRepository(
            SyslogSettings(
                host=wanted.syslog_host,
                port=wanted.syslog_port,
                ca_file=wanted.syslog_ca_file,
                certificate_file=wanted.syslog_certificate_file,
                key_file=wanted.syslog_key_file,
            ),
            AuditSource(host=socket.gethostname(), ae_title=self.config.listener.ae_title, enterprise_site=wanted.enterprise_site),
        )

    @cached_property
    def documents(self) -> DicomDocumentReader:
        """The reader of labels in SR and KOS instances."""
        from adapters.dicom.sr.label_reader import DicomDocumentReader, DocumentSettings

        wanted = self.config.labels
        titles = {title: parse_findings(findings.split(",")) for title, findings in wanted.key_object_titles.items()}
        return DicomDocumentReader(DocumentSettings(accept_sr=wanted.accept_sr, key_object_titles=titles))

    @cached_property
    def decoders(self) -> DecodePool:
        """The decoding processes of scoring. Each starts on its first use."""
        pool = self.new_decode_pool(self.config.score.decode_processes or min(os.cpu_count() or 1, MAX_DEFAULT_DECODERS))
        self._closing.callback(pool.close)
        return pool

    @cached_property
    def thumbnail_decoder(self) -> DecodePool:
        """The decoding process of cards. It starts with the first card."""
        pool = self.new_decode_pool(1)
        self._closing.callback(pool.close)
        return pool

    def new_decode_pool(self, processes: int) -> DecodePool:
        """Make a pool of decoding processes that the caller closes."""
        from adapters.dicom.image.decode_pool import READ_AHEAD_LIMIT, DecodePool

        wanted = self.config.score
        return DecodePool(
            self.config.storage.directory,
            processes=processes,
            timeout_seconds=wanted.decode_seconds,
            memory_bytes=wanted.decode_memory,
            read_ahead_limit=max(READ_AHEAD_LIMIT, 2 * wanted.batch_size),  # one batch is full while another is in the encoder
        )

    def listen_for_wakeups(self, worker_kinds: Sequence[str]) -> list[socket.socket]:
        """Return sockets that become readable when there may be work for workers of these kinds, or SETTLE for the dispatcher."""
        job_kinds = {"report": REPORT_WORKER_KINDS}
        return self.wakeups.listen([str(kind) for worker in worker_kinds for kind in job_kinds.get(worker, (worker,))])

    def require_serving(self) -> ModelVersion:
        """Return the serving version. NoWeights where there is none: no weights, no service."""
        with self.catalog.read() as tx:
            return versions.require_serving(tx)


def make_tls_endpoint(config: Config) -> TlsEndpoint | None:
    """Make the endpoint of DICOM TLS; None where `[tls]` names no files. ConfigurationError where a credential is not passed."""
    from adapters.config.file import secret_path
    from adapters.dicom.network.tls import TlsEndpoint, TlsSettings

    wanted = config.tls
    if not wanted.certificate_file:
        return None
    return TlsEndpoint(
        TlsSettings(
            certificate_file=secret_path(wanted.certificate_file, "tls.certificate_file"),
            key_file=secret_path(wanted.key_file, "tls.key_file"),
            ca_file=secret_path(wanted.ca_file, "tls.ca_file"),
            profile=wanted.profile,
            peers=wanted.peers,
        )
    )
