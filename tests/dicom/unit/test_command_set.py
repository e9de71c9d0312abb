"""Command sets: decoded as senders write them, and responses that pynetdicom encodes in the same way."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pynetdicom.dimse_messages import C_STORE_RSP
from pynetdicom.dimse_primitives import C_STORE

from adapters.dicom.network.command_set import C_STORE_RQ, CommandSet, MalformedCommandSet, decode_command_set, encode_response
from adapters.dicom.network.dimse import OUT_OF_RESOURCES, SUCCESS
from tests.builders.pdus import command_element, command_set

uids = st.from_regex(r"[0-2](\.(0|[1-9][0-9]{0,9})){1,6}", fullmatch=True)
comments = st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="\\"), max_size=64)


@given(uids, uids, st.integers(0, 65535), st.sampled_from([SUCCESS, OUT_OF_RESOURCES]), comments)
def test_a_response_equals_that_of_pynetdicom(sop_class: str, sop_instance: str, message: int, status: int, comment: str) -> None:
    response = C_STORE()
    response.MessageID = response.MessageIDBeingRespondedTo = message
    response.AffectedSOPClassUID, response.AffectedSOPInstanceUID, response.Status = sop_class, sop_instance, status
    if comment:
        response.ErrorComment = comment  # type: ignore[assignment] # declared as None by pynetdicom
    theirs = C_STORE_RSP()
    theirs.primitive_to_message(response)
    [whole] = theirs.encode_msg(1, 0)
    [(_, fragment)] = whole.presentation_data_value_list
    assert encode_response(CommandSet(C_STORE_RQ, message, True, sop_class, sop_instance), status, comment) == fragment[1:]


def test_a_comment_fits_its_vr() -> None:
    request = CommandSet(C_STORE_RQ, 1, True, "1.2", "1.3")
    encoded = encode_response(request, OUT_OF_RESOURCES, "a\\b \u00e4 " + "x" * 100)
    start = encoded.index(b"\0\0\x02\x09") + 8
    assert encoded[start : start + 64] == b"a/b ? " + b"x" * 58


def test_a_request_is_decoded_in_any_order_and_with_any_padding() -> None:
    usual = decode_command_set(command_set())
    assert usual == CommandSet(C_STORE_RQ, 7, True, "1.2.840.10008.5.1.4.1.1.1.1", "1.2.3")
    parts = [
        command_element(0x1000, b" 1.2.3 "),
        command_element(0x0110, b"\7\0"),
        command_element(0x0002, usual.sop_class_uid.encode()),
    ]
    parts += [command_element(0x0800, b"\0\0"), command_element(0x0100, b"\1\0"), command_element(0x1030, b"MOVER")]
    assert decode_command_set(b"".join(parts)) == usual  # without a group length
    assert not decode_command_set(command_set(data_set_type=b"\1\1")).has_data_set


@pytest.mark.parametrize("uid", [b"", b"9" * 66, b"1.2\\1.3", b"\xff\xfe", b"1" * 1000])
def test_an_invalid_uid_is_no_fault_of_the_command_set(uid: bytes) -> None:
    request = decode_command_set(command_set(sop_instance=uid))
    assert request.message_id == 7
    assert encode_response(request, OUT_OF_RESOURCES)


@pytest.mark.parametrize(
    "encoded",
    [
        b"",
        command_set(field=None),
        command_set(message_id=None),
        command_set(message_id=b""),
        command_set(data_set_type=None),
        command_set(field=b"\1"),
        command_set()[:-3],
        command_set() + b"\x08\0\x18\0\0\0\0\0",
    ],
    ids=["empty", "no field", "no message id", "empty message id", "no data set type", "short field", "cut", "another group"],
)
def test_what_cannot_be_answered_is_malformed(encoded: bytes) -> None:
    with pytest.raises(MalformedCommandSet, match=r"."):
        decode_command_set(encoded)


@given(st.binary(max_size=200))
def test_any_bytes_are_decoded_or_malformed(encoded: bytes) -> None:
    with suppress(MalformedCommandSet):
        encode_response(decode_command_set(encoded), SUCCESS)
