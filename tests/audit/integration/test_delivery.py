"""The audit table in the hospital's audit repository: DICOM audit messages over syslog and TLS."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from adapters.audit.dicom_message import AuditSource
from adapters.audit.syslog import SyslogRepository, SyslogSettings
from adapters.catalog.catalog import SqlCatalog
from pipeline.audit_chain import link_events
from pipeline.audit_delivery import BATCH, AuditDeliveryPolicy, deliver
from pipeline.domain import AuditEvent
from pipeline.errors import AuditRepositoryUnreachable, ConfigurationError
from tests.builders.audit_events import parse_message
from tests.builders.catalog_rows import add_instance, chest_header
from tests.builders.syslog_receiver import SyslogReceiver, make_certificate, receiving

SYSLOG = re.compile(
    rb"<85>1 (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z) radclipd\.example radclipd \d+ DICOM\+RFC3881 - \xef\xbb\xbf(.+)", re.S
)
POLICY = AuditDeliveryPolicy()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    folder = tmp_path_factory.mktemp("certificates")
    return {name: make_certificate(folder, name) for name in ("repository", "daemon", "foreign")}


@pytest.fixture
def receiver(certificates: dict[str, tuple[Path, Path]]) -> Iterator[SyslogReceiver]:
    with receiving(*certificates["repository"], clients=certificates["daemon"][0]) as running:
        yield running


def repository(
    port: int, certificates: dict[str, tuple[Path, Path]], *, trusted: str = "repository", own: str = "daemon"
) -> SyslogRepository:
    certificate, key = certificates[own] if own else ("", "")
    settings = SyslogSettings(
        host="127.0.0.1",
        port=port,
        ca_file=str(certificates[trusted][0]),
        certificate_file=str(certificate),
        key_file=str(key),
        timeout_seconds=5,
    )
    return SyslogRepository(settings, AuditSource(host="radclipd.example", ae_title="RADCLIPD"))


def add_events(catalog: SqlCatalog, count: int, subject: str = "") -> None:
    with catalog.begin() as tx:
        for number in range(count):
            tx.audit(AuditEvent("label", "done", subject, f"event {number}", "alice"))
    link_events(catalog=catalog)


def test_every_event_arrives_once_in_order_and_valid(
    sql_catalog: SqlCatalog, receiver: SyslogReceiver, certificates: dict[str, tuple[Path, Path]]
) -> None:
    add_events(sql_catalog, BATCH + 3)
    target = repository(receiver.port, certificates)
    assert deliver(catalog=sql_catalog, repository=target, policy=POLICY) == BATCH + 3
    assert deliver(catalog=sql_catalog, repository=target, policy=POLICY) == 0
    bodies = []
    for message in receiver.messages:
        found = SYSLOG.fullmatch(message)
        assert found is not None
        bodies.append(parse_message(found[2]))
    assert [body.findtext("EventIdentification/EventOutcomeDescription") for body in bodies] == [
        f"event {n}" for n in range(BATCH + 3)
    ]
    assert receiver.errors == []


def test_identity_leaves_only_where_it_is_configured(
    sql_catalog: SqlCatalog, receiver: SyslogReceiver, certificates: dict[str, tuple[Path, Path]]
) -> None:
    add_instance(sql_catalog, chest_header("1.5", "1.5.1", patient_id="PAT-7"))
    add_events(sql_catalog, 1, "1.5.1")
    target = repository(receiver.port, certificates)
    deliver(catalog=sql_catalog, repository=target, policy=POLICY)
    assert (b"PAT-7" in receiver.messages[0], b'ParticipantObjectID="1.5"' in receiver.messages[0]) == (False, True)
    add_events(sql_catalog, 1, "1.5")
    deliver(catalog=sql_catalog, repository=target, policy=AuditDeliveryPolicy(tell_patient_id=True))
    assert b"PAT-7" in receiver.messages[1]


def test_a_repository_that_is_out_of_reach_gets_the_events_later(
    sql_catalog: SqlCatalog, receiver: SyslogReceiver, certificates: dict[str, tuple[Path, Path]]
) -> None:
    add_events(sql_catalog, 2)
    target = repository(receiver.port, certificates)
    receiver.cuts = 1
    with pytest.raises(AuditRepositoryUnreachable, match="audit repository") as cut:
        deliver(catalog=sql_catalog, repository=target, policy=POLICY)
    assert "syslog_ca_file" in cut.value.hint
    assert deliver(catalog=sql_catalog, repository=target, policy=POLICY) == 2
    assert len(receiver.messages) == 2


@pytest.mark.parametrize(("trusted", "own"), [("foreign", "daemon"), ("repository", "foreign"), ("repository", "")])
def test_a_wrong_certificate_on_either_side_delivers_nothing(
    sql_catalog: SqlCatalog, receiver: SyslogReceiver, certificates: dict[str, tuple[Path, Path]], trusted: str, own: str
) -> None:
    add_events(sql_catalog, 1)
    with pytest.raises(AuditRepositoryUnreachable):
        deliver(catalog=sql_catalog, repository=repository(receiver.port, certificates, trusted=trusted, own=own), policy=POLICY)
    assert receiver.messages == []
    with sql_catalog.read() as tx:
        assert tx.audit_chain.delivered_position(f"127.0.0.1:{receiver.port}") == 0


def test_missing_files_are_named(tmp_path: Path, sql_catalog: SqlCatalog) -> None:
    add_events(sql_catalog, 1)
    settings = SyslogSettings(host="127.0.0.1", port=1, ca_file=str(tmp_path / "none.pem"))
    with pytest.raises(ConfigurationError, match=r"\[audit\]") as missing:
        deliver(catalog=sql_catalog, repository=SyslogRepository(settings, AuditSource(host="h", ae_title="A")), policy=POLICY)
    assert "PEM" in missing.value.hint
