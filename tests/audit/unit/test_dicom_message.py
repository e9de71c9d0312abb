"""DICOM audit messages: valid by the schema of PS3.15, coded by PS3.16, and without identity unless that is wanted."""

from __future__ import annotations

import pytest
from lxml import etree
from pydicom.sr.codedict import codes

from adapters.audit.dicom_message import KINDS, MEANINGS, AuditSource, build_message
from pipeline.domain import AuditEvent
from tests.builders.audit_events import parse_message, told_event

SOURCE = AuditSource(host="radclipd.hospital.example", ae_title="RADCLIPD", enterprise_site="St. Mary")
PSEUDONYM = "0123456789abcdef" * 2


def message_of(event: AuditEvent, **options: str) -> etree._Element:
    return parse_message(build_message(told_event(event, **options), SOURCE))


def test_the_codes_are_those_of_the_standard() -> None:
    known = {code.value: code.meaning for code in (getattr(codes.DCM, name) for name in codes.DCM.dir())}
    assert {value: known[value] for value in MEANINGS} == MEANINGS


@pytest.mark.parametrize("action", [*KINDS, "settle"])
@pytest.mark.parametrize("outcome", ["done", "refused", "failed"])
def test_each_action_makes_a_valid_message(action: str, outcome: str) -> None:
    event = AuditEvent(
        action, outcome, "1.2.3", 'detail with <mark up> & "quotes", \x00\x1b and 日本語', "ORTHANC 10.0.0.7", PSEUDONYM
    )
    message = message_of(event, study="1.2.3")
    identification = message.find("EventIdentification")
    assert identification is not None
    assert identification.get("EventOutcomeIndicator") == {"done": "0", "refused": "4", "failed": "8"}[outcome]
    assert identification.get("EventDateTime") == "2026-03-29T00:59:59.123+00:00"
    assert "日本語" in str(identification.findtext("EventOutcomeDescription"))


def test_an_association_names_peer_study_and_pseudonym() -> None:
    message = message_of(AuditEvent("association", "done", "1.2.3", "2 stored", "ORTHANC 10.0.0.7", PSEUDONYM), study="1.2.3")
    assert message.xpath("string(//EventID/@csd-code)") == "110104"
    peer, daemon = message.findall("ActiveParticipant")
    assert (peer.get("UserID"), peer.get("NetworkAccessPointID"), peer.get("NetworkAccessPointTypeCode")) == (
        "ORTHANC",
        "10.0.0.7",
        "2",
    )
    assert peer.xpath("string(RoleIDCode/@originalText)") == "Source Role ID"
    assert (daemon.get("AlternativeUserID"), daemon.xpath("string(RoleIDCode/@originalText)")) == (
        "AETITLES=RADCLIPD",
        "Destination Role ID",
    )
    objects = {
        each.get("ParticipantObjectTypeCodeRole"): each.get("ParticipantObjectID")
        for each in message.iter("ParticipantObjectIdentification")
    }
    assert objects == {"1": PSEUDONYM, "3": "1.2.3", "13": "7"}


def test_the_patient_is_named_only_where_the_id_is_told() -> None:
    event = AuditEvent("label", "done", "1.2.3", "Mass present", "alice", PSEUDONYM)
    named = message_of(event, study="1.2.3", patient_id="PAT-7")
    assert named.xpath("//ParticipantObjectIdentification[@ParticipantObjectTypeCodeRole='1']/@ParticipantObjectID") == ["PAT-7"]
    assert "PAT-7" not in etree.tostring(message_of(event, study="1.2.3"), encoding="unicode")


def test_a_refused_association_is_a_failed_node_authentication() -> None:
    message = message_of(AuditEvent("association", "refused", "FOREIGN", "calling 'FOREIGN': not allowed", "10.9.9.9"))
    assert message.xpath("string(//EventID/@csd-code)") == "110113"
    assert "110126" in message.xpath("//EventTypeCode/@csd-code")
