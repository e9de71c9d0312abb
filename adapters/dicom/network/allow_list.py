"""The allow-list of calling AE titles, each alone or with the addresses that it may call from."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address

from adapters.config.types import split_caller

ANY = "*"
"""Any AE title."""


class AllowList:
    """`listener.calling_ae_titles`: entries AE or AE@NETWORK. An AE title proves nothing by itself, an address little more."""

    def __init__(self, entries: Sequence[str]) -> None:
        self._entries = [split_caller(entry) for entry in entries]

    def admits(self, ae_title: str, address: str) -> bool:
        """Tell whether an AE title may call from an address."""
        return not self.find_fault(ae_title, address)

    def find_fault(self, ae_title: str, address: str) -> str:
        """Return why an AE title may not call from an address, "" where it may."""
        networks = [network for title, network in self._entries if title in (ANY, ae_title)]
        if not networks:
            return "listener.calling_ae_titles does not name it"
        try:
            caller = ip_address(address)
        except ValueError:
            caller = None
        if any(network is None or (caller is not None and caller in network) for network in networks):
            return ""
        return "listener.calling_ae_titles names it with other addresses"
