"""Wake-ups between the processes of one host: who waits for a job hears at once that there is one, and need not poll for it.

Datagrams to sockets in Linux's abstract namespace, named after the catalog and the kind of work (unix(7)): no file, nothing to
clean up. They say nothing but "look": the catalog alone knows what is to be done, and a wake-up that is lost, or that another host
would have needed, costs `work.poll_seconds`.
"""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Iterable, Sequence
from contextlib import suppress

MAX_WOKEN_PROCESSES = 8
"""Processes of one host and kind that are woken; further ones poll."""


class WakeupSockets:
    """Whom a change of one catalog concerns, on this host."""

    def __init__(self, catalog_url: str) -> None:
        self._stem = hashlib.sha256(catalog_url.encode()).hexdigest()[:32]

    def wake(self, kinds: Iterable[str]) -> None:
        """Tell everybody who waits for work of these kinds. Never waits and never fails."""
        with _open_datagram_socket() as sender:
            for kind in set(kinds):
                for place in range(MAX_WOKEN_PROCESSES):
                    with suppress(OSError):  # nobody is there, or has so much to look at that one more says nothing
                        sender.sendto(b"!", self._make_socket_name(kind, place))

    def listen(self, kinds: Sequence[str]) -> list[socket.socket]:
        """Return sockets that become readable when there may be work of these kinds."""
        return [found for kind in kinds if (found := self._bind_socket(kind)) is not None]

    def _bind_socket(self, kind: str) -> socket.socket | None:
        listening = _open_datagram_socket()
        for place in range(MAX_WOKEN_PROCESSES):
            with suppress(OSError):  # another process has it
                listening.bind(self._make_socket_name(kind, place))
                return listening
        listening.close()
        return None

    def _make_socket_name(self, kind: str, number: int) -> bytes:
        return f"\0radclipd-{self._stem}-{kind}-{number}".encode()


def _open_datagram_socket() -> socket.socket:
    return socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
