"""Audit events as DICOM audit messages: XML by the schema of PS3.15 section A.5.1, codes of PS3.16 CID 400, 401, 402 and 404."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC
from ipaddress import ip_address
from xml.etree.ElementTree import Element, SubElement, tostring

from pipeline.ports.audit import ToldEvent

DCM = "DCM"
OWN_CODES = "radclipd"
"""Name of the coding scheme of our own actions."""
RFC_3881 = "RFC-3881"
SUCCESS, MINOR_FAILURE, SERIOUS_FAILURE = "0", "4", "8"
OUTCOMES = {"done": SUCCESS, "refused": MINOR_FAILURE, "failed": SERIOUS_FAILURE}
CREATE, READ, UPDATE, DELETE, EXECUTE = "C", "R", "U", "D", "E"
MACHINE_NAME, IP_ADDRESS = "1", "2"
APPLICATION_SERVER = "4"
PERSON, SYSTEM_OBJECT = "1", "2"
PATIENT_ROLE, REPORT_ROLE, SECURITY_RESOURCE_ROLE = "1", "3", "13"

MEANINGS = {
    "110100": "Application Activity",
    "110101": "Audit Log Used",
    "110103": "DICOM Instances Accessed",
    "110104": "DICOM Instances Transferred",
    "110105": "DICOM Study Deleted",
    "110106": "Export",
    "110112": "Query",
    "110113": "Security Alert",
    "110114": "User Authentication",
    "110122": "Login",
    "110123": "Logout",
    "110126": "Node Authentication",
    "110131": "Software Configuration",
    "110137": "User Security Attributes Changed",
    "110150": "Application",
    "110152": "Destination Role ID",
    "110153": "Source Role ID",
    "110180": "Study Instance UID",
}
"""Code value -> code meaning, scheme DCM."""


@dataclass(frozen=True, slots=True)
class EventKind:
    """The codes of one of our actions."""

    event: str  # EventID
    action: str  # EventActionCode
    kind: str = ""  # EventTypeCode; "": none of DCM's
    transfers: bool = False  # instances came from the source, or went to it


APPLICATION_ACTIVITY = EventKind("110100", EXECUTE)
SOFTWARE_CONFIGURATION = EventKind("110113", EXECUTE, "110131")
KINDS: Mapping[str, EventKind] = {
    "association": EventKind("110104", CREATE, transfers=True),
    "receive": EventKind("110104", CREATE, transfers=True),
    "send": EventKind("110104", READ, transfers=True),
    "log-in": EventKind("110114", EXECUTE, "110122"),
    "log-out": EventKind("110114", EXECUTE, "110123"),
    "user": EventKind("110113", EXECUTE, "110137"),
    "label": EventKind("110103", UPDATE),
    "skip": EventKind("110103", READ),
    "view": EventKind("110103", READ),
    "export": EventKind("110106", READ),
    "query": EventKind("110112", EXECUTE),
    "forget": EventKind("110105", DELETE),
    "audit": EventKind("110101", READ),
    **dict.fromkeys(
        ("promote", "reject", "rollback", "recall", "stop", "resume", "model.import", "learn", "worklist"), SOFTWARE_CONFIGURATION
    ),
}
"""Action of an audit event -> its codes. Any other action is an application activity."""
NODE_AUTHENTICATION = EventKind("110113", EXECUTE, "110126")
"""An association that was refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditSource:
    """The system that writes the messages."""

    host: str
    ae_title: str
    enterprise_site: str = ""


def build_message(told: ToldEvent, source: AuditSource) -> bytes:
    """Return the message of one event, UTF-8."""
    event = told.link.event
    kind = KINDS.get(event.action, APPLICATION_ACTIVITY)
    if (event.action, event.outcome) == ("association", "refused"):
        kind = NODE_AUTHENTICATION
    message = Element("AuditMessage")
    _add_event(message, told, kind)
    _add_participants(message, told, kind, source)
    _add_source(message, source)
    if event.patient:
        _add_patient(message, told)
    if told.study_instance_uid:
        _add_study(message, told)
    _add_chain(message, told)
    return bytes(tostring(message, encoding="utf-8"))


def _add_event(message: Element, told: ToldEvent, kind: EventKind) -> None:
    event = told.link.event
    identification = SubElement(
        message,
        "EventIdentification",
        EventActionCode=kind.action,
        EventDateTime=told.link.at.astimezone(UTC).isoformat(timespec="milliseconds"),
        EventOutcomeIndicator=OUTCOMES[event.outcome],
    )
    _add_code(identification, "EventID", kind.event)
    if kind.kind:
        _add_code(identification, "EventTypeCode", kind.kind)
    _add_code(identification, "EventTypeCode", event.action, scheme=OWN_CODES, meaning=event.action)
    if event.detail:
        SubElement(identification, "EventOutcomeDescription").text = _drop_controls(event.detail)


def _add_participants(message: Element, told: ToldEvent, kind: EventKind, source: AuditSource) -> None:
    """Add the person or peer that acted, and this daemon."""
    event, receives = told.link.event, kind.transfers and kind.action == CREATE
    if event.source:
        name, _, address = event.source.rpartition(" ")
        access = _name_access_point(address) if name else {}
        user = {"UserID": name or event.source, "UserIsRequestor": "true", **access}
        peer = SubElement(message, "ActiveParticipant", {key: _drop_controls(value) for key, value in user.items()})
        if kind.transfers:
            _add_code(peer, "RoleIDCode", "110153" if receives else "110152")
    daemon = SubElement(
        message,
        "ActiveParticipant",
        UserID="radclipd",
        AlternativeUserID=f"AETITLES={source.ae_title}",
        UserIsRequestor=str(not event.source).lower(),
        NetworkAccessPointID=source.host,
        NetworkAccessPointTypeCode=MACHINE_NAME,
    )
    role = {(True, True): "110152", (True, False): "110153"}.get((kind.transfers, receives), "110150")
    _add_code(daemon, "RoleIDCode", role)


def _name_access_point(address: str) -> dict[str, str]:
    try:
        ip_address(address)
    except ValueError:
        return {"NetworkAccessPointID": address, "NetworkAccessPointTypeCode": MACHINE_NAME}
    return {"NetworkAccessPointID": address, "NetworkAccessPointTypeCode": IP_ADDRESS}


def _add_source(message: Element, source: AuditSource) -> None:
    site = {"AuditEnterpriseSiteID": source.enterprise_site} if source.enterprise_site else {}
    identification = SubElement(message, "AuditSourceIdentification", {**site, "AuditSourceID": f"radclipd@{source.host}"})
    SubElement(identification, "AuditSourceTypeCode", {"csd-code": APPLICATION_SERVER})


def _add_patient(message: Element, told: ToldEvent) -> None:
    """Add the patient: by the ID where it may be told, else by the pseudonym."""
    identifier = told.patient_id or told.link.event.patient
    patient = _add_object(message, identifier, PERSON, PATIENT_ROLE)
    _add_code(patient, "ParticipantObjectIDTypeCode", "2", scheme=RFC_3881, meaning="Patient Number")
    SubElement(patient, "ParticipantObjectName").text = "patient" if told.patient_id else "pseudonym"


def _add_study(message: Element, told: ToldEvent) -> None:
    study = _add_object(message, told.study_instance_uid, SYSTEM_OBJECT, REPORT_ROLE)
    _add_code(study, "ParticipantObjectIDTypeCode", "110180")
    SubElement(study, "ParticipantObjectName").text = "study"
    if told.link.event.subject != told.study_instance_uid:
        _add_detail(study, "SOPInstanceUID", told.link.event.subject.encode())


def _add_chain(message: Element, told: ToldEvent) -> None:
    """Add position and digest: a chain that is cut or written anew later differs from them."""
    chain = _add_object(message, str(told.link.position), SYSTEM_OBJECT, SECURITY_RESOURCE_ROLE)
    _add_code(chain, "ParticipantObjectIDTypeCode", "position", scheme=OWN_CODES, meaning="Position in the audit chain")
    SubElement(chain, "ParticipantObjectName").text = "audit chain"
    _add_detail(chain, "SHA-256", bytes.fromhex(told.link.chain_sha256))
    if not told.study_instance_uid and told.link.event.subject:
        _add_detail(chain, "subject", told.link.event.subject.encode())


def _add_object(message: Element, identifier: str, type_code: str, role: str) -> Element:
    return SubElement(
        message,
        "ParticipantObjectIdentification",
        ParticipantObjectID=_drop_controls(identifier),
        ParticipantObjectTypeCode=type_code,
        ParticipantObjectTypeCodeRole=role,
    )


def _add_detail(owner: Element, name: str, value: bytes) -> None:
    SubElement(owner, "ParticipantObjectDetail", type=name, value=base64.b64encode(value).decode("ascii"))


def _add_code(owner: Element, tag: str, value: str, *, scheme: str = DCM, meaning: str = "") -> None:
    meaning = meaning or MEANINGS[value]
    SubElement(owner, tag, {"csd-code": value, "codeSystemName": scheme, "originalText": meaning})


def _drop_controls(text: str) -> str:
    """Return the text without the control characters that XML 1.0 has no notation for."""
    return "".join(character for character in text if character >= " " or character in "\t\n")
