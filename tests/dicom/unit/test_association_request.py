"""A-ASSOCIATE-RQs as peers write them: padding, unknown items, faulty contexts; and what pynetdicom gets of each."""

from __future__ import annotations

import struct
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pynetdicom.pdu import A_ASSOCIATE_RQ

from adapters.dicom.network.association_request import AssociationRequest, Rejection, decode_request
from adapters.dicom.network.pdu_reader import MalformedPdu
from tests.builders.pdus import DX_CONTEXT, IMPLEMENTATION_CLASS, MAXIMUM_LENGTH, associate_rq, item, proposed_context

EXPLICIT = b"1.2.840.10008.1.2.1"
UNKNOWN = item(0x5F, b"site's own") + item(0x00, b"") + item(0xFF, b"\0" * 300)


def as_pynetdicom_reads(request: AssociationRequest) -> A_ASSOCIATE_RQ:
    pdu = A_ASSOCIATE_RQ()
    pdu.decode(request.encode())
    pdu.to_primitive()
    return pdu


TOLERATED = {
    "titles padded with nulls": associate_rq(calling=b"ORTHANC".ljust(16, b"\0"), called=b"RADCLIPD".ljust(16, b"\0")),
    "titles padded before and after": associate_rq(calling=b"  ORTHANC\0\0", called=b" RADCLIPD \0 junk"),
    "rubbish behind a null": associate_rq(calling=b"ORTHANC\0\xfe\xca\x01"),
    "a letter beyond ASCII": associate_rq(calling="ORTHÄANC".encode("latin-1")),
    "every later protocol version": associate_rq(protocol=0xFFFF),
    "reserved bytes in use": associate_rq(reserved=0xA5),
    "a long version name": associate_rq(user=MAXIMUM_LENGTH + IMPLEMENTATION_CLASS + item(0x55, b"V" * 64)),
    "an empty version name": associate_rq(user=MAXIMUM_LENGTH + IMPLEMENTATION_CLASS + item(0x55, b"")),
    "a version name of control characters": associate_rq(user=MAXIMUM_LENGTH + item(0x55, b"\x01\x02")),
    "unknown items": associate_rq(extra=UNKNOWN),
    "unknown user items": associate_rq(user=UNKNOWN + MAXIMUM_LENGTH + IMPLEMENTATION_CLASS),
    "an unknown item in a context": associate_rq(proposed_context(1, b"1.2.840.10008.1.1", EXPLICIT, extra=UNKNOWN)),
    "no implementation class": associate_rq(user=MAXIMUM_LENGTH),
    "an invalid implementation class": associate_rq(user=MAXIMUM_LENGTH + item(0x52, b"9" * 80)),
    "no maximum length": associate_rq(user=IMPLEMENTATION_CLASS),
    "a maximum length of two bytes": associate_rq(user=item(0x51, b"\0\1")),
    "no user information": associate_rq(user=b""),
    "faulty optional negotiations": associate_rq(
        user=MAXIMUM_LENGTH + b"".join(item(n, b"\xff") for n in (0x53, 0x54, 0x56, 0x57, 0x58))
    ),
    "an application context padded": associate_rq(application=b"1.2.840.10008.3.1.1.1\0"),
    "nulls at the end": associate_rq(extra=b"\0\0\0"),
    "names padded": associate_rq(proposed_context(1, b"1.2.840.10008.1.1\0", EXPLICIT + b"\0 ")),
}


@pytest.mark.parametrize("pdu", TOLERATED.values(), ids=TOLERATED)
def test_what_the_standard_tells_to_ignore_is_ignored(pdu: bytes) -> None:
    request = decode_request(pdu)
    assert (request.rejection, request.faulty_contexts) == (None, ())
    assert (request.calling_ae_title, request.called_ae_title) == ("ORTHANC", "RADCLIPD")
    read = as_pynetdicom_reads(request)
    assert (read.calling_ae_title, read.called_ae_title, read.protocol_version) == ("ORTHANC", "RADCLIPD", 1)
    assert [context.transfer_syntax for context in read.presentation_context] == [[EXPLICIT.decode()]]


REJECTED = {
    "blank calling title": (associate_rq(calling=b""), (1, 1, 3)),
    "calling title of nulls": (associate_rq(calling=b"\0" * 16), (1, 1, 3)),
    "control characters in the calling title": (associate_rq(calling=b"A\x07B"), (1, 1, 3)),
    "backslash in the calling title": (associate_rq(calling=b"A\\B"), (1, 1, 3)),
    "blank called title": (associate_rq(called=b""), (1, 1, 7)),
    "called title of nulls": (associate_rq(called=b"\0ADCLIPD"), (1, 1, 7)),
    "version 0": (associate_rq(protocol=0), (1, 2, 2)),
    "a later version only": (associate_rq(protocol=2), (1, 2, 2)),
    "another application context": (associate_rq(application=b"1.2.3"), (1, 1, 2)),
    "no application context": (associate_rq(application=b""), (1, 1, 2)),
}


@pytest.mark.parametrize(("pdu", "answer"), REJECTED.values(), ids=REJECTED)
def test_what_must_be_rejected_has_its_result_source_and_reason(pdu: bytes, answer: tuple[int, int, int]) -> None:
    rejection = decode_request(pdu).rejection
    assert rejection is not None
    assert (rejection.result, rejection.source, rejection.reason) == answer
    assert rejection.why
    assert rejection.encode() == bytes([3, 0, 0, 0, 0, 4, 0, *answer])


def test_a_request_without_contexts_is_rejected() -> None:
    whole = associate_rq()
    bare = whole[6:].replace(DX_CONTEXT, b"")
    assert decode_request(whole[:2] + struct.pack(">L", len(bare)) + bare).rejection == Rejection(
        1, 1, 1, "it proposes no presentation context"
    )


def test_each_faulty_context_has_its_result_and_the_others_are_negotiated() -> None:
    contexts = [
        proposed_context(1, b"1.2.840.10008.1.1", b""),
        proposed_context(3, b"1.2.840.10008.1.1"),
        proposed_context(5, b"", EXPLICIT),
        proposed_context(7, b"9" * 65, EXPLICIT),
        proposed_context(9, b"1.2.840.10008.1.1", b"name", b"", EXPLICIT, EXPLICIT),
        proposed_context(9, b"1.2.3", EXPLICIT),
        item(0x20, bytes([255, 0, 0, 0])),
    ]
    request = decode_request(associate_rq(*contexts))
    assert {context.number: context.result for context in request.faulty_contexts} == {1: 4, 3: 4, 5: 3, 7: 3, 255: 3}
    (good,) = as_pynetdicom_reads(request).presentation_context
    assert (good.context_id, good.abstract_syntax, good.transfer_syntax) == (9, "1.2.840.10008.1.1", [EXPLICIT.decode()])


MALFORMED = {
    "no body": struct.pack(">BBL", 1, 0, 0),
    "cut within the titles": associate_rq()[:40],
    "an item longer than the PDU": associate_rq(extra=b"\x20\0\xff\xff\0"),
    "a sub-item longer than its item": associate_rq(item(0x20, b"\1\0\0\0\x30\0\0\x40")),
    "a user item longer than its item": associate_rq(user=b"\x51\0\0\x10\0"),
    "rubbish behind the last item": associate_rq(extra=b"xyz"),
    "an even context id": associate_rq(proposed_context(2, b"1.2", b"1.3")),
    "context id 0": associate_rq(proposed_context(0, b"1.2", b"1.3")),
    "a context without an id": associate_rq(item(0x20, b"")),
}


@pytest.mark.parametrize("pdu", MALFORMED.values(), ids=MALFORMED)
def test_inconsistent_lengths_and_ids_are_malformed(pdu: bytes) -> None:
    with pytest.raises(MalformedPdu, match=r"."):
        decode_request(pdu)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_pynetdicom_reads_whatever_was_decoded(data: st.DataObject) -> None:
    titles = st.binary(max_size=16)
    contexts = st.builds(
        lambda number, names, extra: proposed_context(number, *names, extra=extra),
        st.integers(0, 255),
        st.lists(st.one_of(st.binary(max_size=70), st.just(EXPLICIT)), min_size=1, max_size=4),
        st.binary(max_size=8),
    )
    pdu = bytearray(
        associate_rq(
            *data.draw(st.lists(contexts, max_size=4)),
            calling=data.draw(titles),
            called=data.draw(titles),
            protocol=data.draw(st.integers(0, 65535)),
            user=b"".join(
                item(kind, content)
                for kind, content in data.draw(st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=80)), max_size=5))
            ),
        )
    )
    for place, byte in data.draw(st.lists(st.tuples(st.integers(6, len(pdu) - 1), st.integers(0, 255)), max_size=6)):
        pdu[place] = byte
    with suppress(MalformedPdu):
        request = decode_request(pdu)
        if request.rejection is None:
            as_pynetdicom_reads(request)
