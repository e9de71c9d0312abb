"""The allow-list: AE titles alone, and with the addresses that they may call from."""

from __future__ import annotations

import pytest

from adapters.config.types import check_caller
from adapters.dicom.network.allow_list import AllowList


@pytest.mark.parametrize(
    ("entries", "ae_title", "address", "fault"),
    [
        (["CT1"], "CT1", "203.0.113.7", ""),
        (["*"], "CT1", "203.0.113.7", ""),
        (["CT1@10.20.0.0/16"], "CT1", "10.20.255.1", ""),
        (["CT1@10.20.0.0/16"], "CT1", "10.21.0.1", "listener.calling_ae_titles names it with other addresses"),
        (["CT1@10.20.0.0/16", "CT1@10.21.0.1"], "CT1", "10.21.0.1", ""),
        (["CT1@10.20.0.0/16"], "CT2", "10.20.0.1", "listener.calling_ae_titles does not name it"),
        (["*@10.20.0.0/16", "CT1@192.0.2.1"], "CT1", "10.20.0.1", ""),
        (["*@10.20.0.0/16"], "CT1", "192.0.2.1", "listener.calling_ae_titles names it with other addresses"),
        (["CT1@2001:db8::/32"], "CT1", "2001:db8::9", ""),
        (["CT1@2001:db8::/32"], "CT1", "10.20.0.1", "listener.calling_ae_titles names it with other addresses"),
        (["CT1@fe80::/10"], "CT1", "fe80::1%eth0", ""),
        (["CT1@10.0.0.0/8"], "CT1", "", "listener.calling_ae_titles names it with other addresses"),
        (["CT@SITE"], "CT@SITE", "10.20.0.1", ""),
    ],
)
def test_an_entry_admits_its_ae_title_from_its_addresses(entries: list[str], ae_title: str, address: str, fault: str) -> None:
    assert AllowList(entries).find_fault(ae_title, address) == fault
    assert AllowList(entries).admits(ae_title, address) == (not fault)


@pytest.mark.parametrize("entry", ["CT1@10.20.0.1/16", "CT1@10.20.0.300", "CT1@10.20.0.0/33", "@10.0.0.0/8", "A\\B@10.0.0.0/8"])
def test_an_entry_with_a_wrong_network_or_title_is_refused(entry: str) -> None:
    with pytest.raises(ValueError, match=r"AE@NETWORK/BITS|AE title"):
        check_caller(entry)


def test_an_entry_is_kept_in_one_form() -> None:
    assert check_caller(" CT1 @10.20.0.0/16") == "CT1@10.20.0.0/16"
    assert check_caller("CT1@10.20.0.1") == "CT1@10.20.0.1/32"
