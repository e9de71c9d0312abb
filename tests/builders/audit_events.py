"""Events of the audit chain, and the schema of their messages."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from lxml import etree

from pipeline.audit_chain import NO_PREDECESSOR, link
from pipeline.domain import AuditEvent
from pipeline.ports.audit import ToldEvent

SCHEMA = Path(__file__).with_name("dicom_audit.rng")
MOMENT = datetime(2026, 3, 29, 0, 59, 59, 123456, tzinfo=UTC)


def told_event(event: AuditEvent, *, study: str = "", patient_id: str = "") -> ToldEvent:
    return ToldEvent(link(event, MOMENT, position=7, predecessor=NO_PREDECESSOR, salt="00"), study, patient_id)


def parse_message(message: bytes) -> etree._Element:
    """Return the root of a message that the schema of PS3.15 A.5.1.1 accepts."""
    root = etree.fromstring(message)
    etree.RelaxNG(etree.parse(SCHEMA)).assertValid(root)
    return root
