"""The encoded response of a stored instance equals pynetdicom's, byte for byte."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pynetdicom.dimse_messages import C_STORE_RSP
from pynetdicom.dimse_primitives import C_ECHO, C_STORE

from adapters.dicom.network import store_response
from adapters.dicom.network.dimse import OUT_OF_RESOURCES, SUCCESS

uids = st.from_regex(r"[0-2](\.(0|[1-9][0-9]{0,9})){1,6}", fullmatch=True)


def build_response(sop_class: str, sop_instance: str, message: int, status: int = SUCCESS) -> C_STORE:
    response = C_STORE()
    response.MessageID = response.MessageIDBeingRespondedTo = message
    response.AffectedSOPClassUID, response.AffectedSOPInstanceUID, response.Status = sop_class, sop_instance, status
    return response


@given(sop_class=uids, sop_instance=uids, message=st.integers(0, 65535))
def test_the_command_set_equals_that_of_pynetdicom(sop_class: str, sop_instance: str, message: int) -> None:
    response = build_response(sop_class, sop_instance, message)
    theirs = C_STORE_RSP()
    theirs.primitive_to_message(response)
    [whole] = theirs.encode_msg(1, 0)
    [(_, fragment)] = whole.presentation_data_value_list
    assert store_response.as_plain_success(response) is response
    assert store_response.encode_command_set(response) == fragment[1:]


def request() -> C_STORE:
    asked = build_response("1.2", "1.2.3", 1)
    asked.MessageIDBeingRespondedTo = None
    return asked


def refusal(comment: str = "") -> C_STORE:
    refused = build_response("1.2", "1.2.3", 1, SUCCESS if comment else OUT_OF_RESOURCES)
    if comment:
        refused.ErrorComment = comment  # type: ignore[assignment] # declared as None by pynetdicom
    return refused


@pytest.mark.parametrize("other", [request(), refusal(), refusal("why"), C_ECHO()], ids=["request", "refusal", "comment", "echo"])
def test_other_messages_are_not_plain_successes(other: object) -> None:
    assert store_response.as_plain_success(other) is None
