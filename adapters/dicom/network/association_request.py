"""The A-ASSOCIATE-RQ (PS3.8 9.3.2) as peers write it: what the standard tells to ignore is ignored, what must be refused is named.

pynetdicom, which negotiates the association, is stricter than the standard and raises exceptions on the way. It gets the request
written anew: AE titles without padding, presentation contexts with valid names, and of the user information the maximum length,
the implementation's names and the roles in storage commitment. The other negotiations of PS3.7 annex D are optional; an acceptor
declines them by leaving them out of its answer.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from adapters.dicom.network.dimse import STORAGE_COMMITMENT
from adapters.dicom.network.pdu_reader import PDU_HEADER, MalformedPdu

A_ASSOCIATE_RQ, A_ASSOCIATE_RJ, A_ABORT = 0x01, 0x03, 0x07  # PDU types, PS3.8 9.3.1
APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"  # PS3.7 A.2.1
APPLICATION_ITEM, CONTEXT_ITEM, USER_ITEM = 0x10, 0x20, 0x50  # item types, PS3.8 9.3.2
ABSTRACT_SYNTAX_ITEM, TRANSFER_SYNTAX_ITEM = 0x30, 0x40
MAXIMUM_LENGTH_ITEM, IMPLEMENTATION_CLASS_ITEM, IMPLEMENTATION_VERSION_ITEM = 0x51, 0x52, 0x55  # PS3.8 D.1, PS3.7 D.3.3.2
ROLE_ITEM = 0x54  # SCP/SCU role selection, PS3.7 D.3.3.4
ITEM_HEADER = 4
FIXED_BYTES = 68  # of the body before the first item
CONTEXT_FIXED_BYTES = 4
AE_TITLE_BYTES, VERSION_NAME_CHARACTERS = 16, 16
SUPPORTED_VERSION = 0x0001  # the only bit of the protocol version that is tested
DEFAULT_MAXIMUM_LENGTH = 16_384
"""Maximum length of a peer that states none, bytes."""

_UID = re.compile(r"[0-9][0-9.]{0,63}")
_TITLE = re.compile(r"[\x20-\x5b\x5d-\x7e]+")  # VR AE: no control character, no backslash (PS3.5 6.2)


@dataclass(frozen=True, slots=True)
class Rejection:
    """The reason of an A-ASSOCIATE-RJ: result, source and reason of PS3.8 table 9-21, and the same in words."""

    result: int
    source: int
    reason: int
    why: str

    def encode(self) -> bytes:
        """Return the A-ASSOCIATE-RJ PDU."""
        return struct.pack(">BBLBBBB", A_ASSOCIATE_RJ, 0, 4, 0, self.result, self.source, self.reason)


PERMANENT, TRANSIENT = 1, 2
SERVICE_USER, ACSE, PRESENTATION_LAYER = 1, 2, 3


def reject_calling_title(why: str) -> Rejection:
    """Return the rejection "calling AE title not recognized"."""
    return Rejection(PERMANENT, SERVICE_USER, 3, why)


def reject_called_title(why: str) -> Rejection:
    """Return the rejection "called AE title not recognized"."""
    return Rejection(PERMANENT, SERVICE_USER, 7, why)


NO_CONTEXTS = Rejection(PERMANENT, SERVICE_USER, 1, "it proposes no presentation context")
WRONG_APPLICATION_CONTEXT = Rejection(PERMANENT, SERVICE_USER, 2, "its application context is not that of DICOM")
WRONG_VERSION = Rejection(PERMANENT, ACSE, 2, "it does not offer version 1 of the protocol")
CONGESTION = Rejection(TRANSIENT, PRESENTATION_LAYER, 1, "the listener stops")
TOO_MANY_ASSOCIATIONS = Rejection(TRANSIENT, PRESENTATION_LAYER, 2, "too many associations wait")

ABSTRACT_SYNTAX_NOT_SUPPORTED, TRANSFER_SYNTAXES_NOT_SUPPORTED = 3, 4  # results of a presentation context, PS3.8 table 9-18


@dataclass(frozen=True, slots=True)
class ProposedContext:
    """A presentation context. `result`: 0, or why it cannot be negotiated."""

    number: int
    abstract_syntax: str
    transfer_syntaxes: tuple[str, ...]

    @property
    def result(self) -> int:
        if not self.abstract_syntax:
            return ABSTRACT_SYNTAX_NOT_SUPPORTED
        return 0 if self.transfer_syntaxes else TRANSFER_SYNTAXES_NOT_SUPPORTED


@dataclass(frozen=True, slots=True)
class RoleSelection:
    """The roles that the requestor proposes for itself in one SOP class."""

    sop_class_uid: str
    is_scu: bool
    is_scp: bool

    def encode(self) -> bytes:
        """Return the content of the item."""
        uid = self.sop_class_uid.encode()
        return struct.pack(">H", len(uid)) + uid + bytes([self.is_scu, self.is_scp])


@dataclass(frozen=True, slots=True)
class AssociationRequest:
    """A decoded A-ASSOCIATE-RQ. `rejection`: the reason that the request itself gives."""

    calling_ae_title: str
    called_ae_title: str
    contexts: tuple[ProposedContext, ...]
    maximum_length: int
    implementation_class_uid: str
    implementation_version_name: str
    rejection: Rejection | None
    roles: tuple[RoleSelection, ...] = ()

    @property
    def faulty_contexts(self) -> tuple[ProposedContext, ...]:
        """The contexts without an abstract syntax or without a transfer syntax. The encoded request leaves them out."""
        return tuple(context for context in self.contexts if context.result)

    def encode(self) -> bytes:
        """Return the PDU in the form that pynetdicom decodes."""
        items = [_encode_item(APPLICATION_ITEM, APPLICATION_CONTEXT.encode())]
        items += [_encode_context(context) for context in self.contexts if not context.result]
        information = _encode_item(MAXIMUM_LENGTH_ITEM, struct.pack(">L", self.maximum_length))
        if self.implementation_class_uid:
            information += _encode_item(IMPLEMENTATION_CLASS_ITEM, self.implementation_class_uid.encode())
        if self.implementation_version_name:
            information += _encode_item(IMPLEMENTATION_VERSION_ITEM, self.implementation_version_name.encode())
        information += b"".join(_encode_item(ROLE_ITEM, role.encode()) for role in self.roles)
        titles = b"".join(title.encode().ljust(AE_TITLE_BYTES) for title in (self.called_ae_title, self.calling_ae_title))
        items.append(_encode_item(USER_ITEM, information))
        body = struct.pack(">HH", SUPPORTED_VERSION, 0) + titles + bytes(32) + b"".join(items)
        return struct.pack(">BBL", A_ASSOCIATE_RQ, 0, len(body)) + body


def decode_request(pdu: bytes | bytearray) -> AssociationRequest:
    """Decode a complete A-ASSOCIATE-RQ PDU. MalformedPdu where a length or a presentation context id is invalid."""
    if len(pdu) < PDU_HEADER + FIXED_BYTES:
        raise MalformedPdu("the A-ASSOCIATE-RQ ends before its items")
    version = int.from_bytes(pdu[6:8], "big")
    called, calling = _decode_title(pdu[10:26]), _decode_title(pdu[26:42])
    application, contexts = "", dict[int, ProposedContext]()
    information: dict[int, bytes] = {}
    roles: list[RoleSelection] = []
    for kind, content in _split_items(bytes(pdu[PDU_HEADER + FIXED_BYTES :])):
        if kind == APPLICATION_ITEM:
            application = application or _decode_uid(content)
        elif kind == CONTEXT_ITEM:
            context = _decode_context(content)
            contexts.setdefault(context.number, context)
        elif kind == USER_ITEM:
            information = dict(_split_items(content)) | information
            roles += [role for kind, item in _split_items(content) if kind == ROLE_ITEM and (role := _decode_role(item))]
    return AssociationRequest(
        calling_ae_title=calling or "",
        called_ae_title=called or "",
        contexts=tuple(contexts.values()),
        maximum_length=_decode_maximum_length(information.get(MAXIMUM_LENGTH_ITEM, b"")),
        implementation_class_uid=_decode_uid(information.get(IMPLEMENTATION_CLASS_ITEM, b"")),
        implementation_version_name=_decode_version_name(information.get(IMPLEMENTATION_VERSION_ITEM, b"")),
        rejection=_find_rejection(version, application, called, calling, contexts),
        roles=tuple({role.sop_class_uid: role for role in reversed(roles)}.values()),
    )


def _find_rejection(
    version: int, application: str, called: str | None, calling: str | None, contexts: dict[int, ProposedContext]
) -> Rejection | None:
    if not version & SUPPORTED_VERSION:
        return WRONG_VERSION
    if application != APPLICATION_CONTEXT:
        return WRONG_APPLICATION_CONTEXT
    if not called:
        return reject_called_title("the called AE title is " + ("blank" if called == "" else "not one"))
    if not calling:
        return reject_calling_title("the calling AE title is " + ("blank" if calling == "" else "not one"))
    return None if contexts else NO_CONTEXTS


def _decode_title(field: bytes | bytearray) -> str | None:
    """Return the AE title without padding; None where it has a character that no AE title has.

    Padded with spaces or with nulls: what follows a null is not part of the title. Letters beyond ASCII are left out.
    """
    title = bytes(field).partition(b"\0")[0].decode("ascii", "ignore").strip(" ")
    return title if not title or _TITLE.fullmatch(title) else None


def _decode_uid(content: bytes) -> str:
    """Return the UID without padding; "" where it is none."""
    uid = content.rstrip(b"\0 ").decode("ascii", "replace").lstrip(" ")
    return uid if _UID.fullmatch(uid) else ""


def _decode_version_name(content: bytes) -> str:
    """Return the first 16 characters, which the standard allows; "" where there are none."""
    name = content.partition(b"\0")[0].decode("ascii", "ignore").strip()[:VERSION_NAME_CHARACTERS].strip()
    return name if _TITLE.fullmatch(name) else ""


def _decode_maximum_length(content: bytes) -> int:
    return int.from_bytes(content, "big") if len(content) == 4 else DEFAULT_MAXIMUM_LENGTH


def _decode_role(content: bytes) -> RoleSelection | None:
    """Return the roles where they are proposed for storage commitment, the one class in which the listener negotiates them."""
    length = int.from_bytes(content[:2], "big")
    uid, roles = _decode_uid(content[2 : 2 + length]), content[2 + length :]
    if uid != STORAGE_COMMITMENT or len(roles) < 2:
        return None
    return RoleSelection(uid, is_scu=roles[0] == 1, is_scp=roles[1] == 1)


def _decode_context(content: bytes) -> ProposedContext:
    if len(content) < CONTEXT_FIXED_BYTES or content[0] % 2 == 0:
        raise MalformedPdu("a presentation context id is not odd")
    abstract, transfer = "", dict[str, None]()  # a dict keeps the order of the proposal
    for kind, name in _split_items(content[CONTEXT_FIXED_BYTES:]):
        if kind == ABSTRACT_SYNTAX_ITEM:
            abstract = abstract or _decode_uid(name)
        elif kind == TRANSFER_SYNTAX_ITEM and (uid := _decode_uid(name)):
            transfer[uid] = None
    return ProposedContext(content[0], abstract, tuple(transfer))


def _split_items(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield type and content of each item. MalformedPdu where an item is longer than what holds it."""
    start = 0
    while len(content) - start >= ITEM_HEADER:
        length = int.from_bytes(content[start + 2 : start + ITEM_HEADER], "big")
        end = start + ITEM_HEADER + length
        if end > len(content):
            raise MalformedPdu("an item of the A-ASSOCIATE-RQ is longer than the PDU")
        yield content[start], content[start + ITEM_HEADER : end]
        start = end
    if content[start:].strip(b"\0"):  # up to three nulls are padding
        raise MalformedPdu("the A-ASSOCIATE-RQ has bytes behind its last item")


def _encode_item(kind: int, content: bytes) -> bytes:
    return struct.pack(">BBH", kind, 0, len(content)) + content


def _encode_context(context: ProposedContext) -> bytes:
    names = _encode_item(ABSTRACT_SYNTAX_ITEM, context.abstract_syntax.encode())
    names += b"".join(_encode_item(TRANSFER_SYNTAX_ITEM, uid.encode()) for uid in context.transfer_syntaxes)
    return _encode_item(CONTEXT_ITEM, bytes([context.number, 0, 0, 0]) + names)
