"""Wake-ups between the processes of one host: a waiting worker learns at once of a new job, without a poll.

A wake-up is a datagram to a socket in Linux's abstract namespace, named after the catalog and the kind of work (unix(7)): no file,
and nothing to clean up. It carries no content: the catalog alone holds the jobs. A lost wake-up, or one for another host, costs
`work.poll_seconds`.
"""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Iterable, Sequence
from contextlib import suppress

MAX_WOKEN_PROCESSES = 8
"""Most processes of one host and kind that are woken; further ones poll."""


class WakeupSockets:
    """The sockets of the processes of one catalog on this host."""

    def __init__(self, catalog_url: str) -> None:
        self._stem = hashlib.sha256(catalog_url.encode()).hexdigest()[:32]

    def wake(self, kinds: Iterable[str]) -> None:
        """Wake all processes that wait for work of these kinds. Never waits and never fails."""
        with _open_datagram_socket() as sender:
            for kind in set(kinds):
                for number in range(MAX_WOKEN_PROCESSES):
                    with suppress(OSError):  # no process has this socket, or its queue is full and it wakes anyway
                        sender.sendto(b"!", self._make_socket_name(kind, number))

    def listen(self, kinds: Sequence[str]) -> list[socket.socket]:
        """Return sockets that become readable when there may be work of these kinds."""
        return [bound for kind in kinds if (bound := self._bind_socket(kind)) is not None]

    def _bind_socket(self, kind: str) -> socket.socket | None:
        listening = _open_datagram_socket()
        for number in range(MAX_WOKEN_PROCESSES):
            with suppress(OSError):  # another process has this number
                listening.bind(self._make_socket_name(kind, number))
                return listening
        listening.close()
        return None

    def _make_socket_name(self, kind: str, number: int) -> bytes:
        return f"\0radclipd-{self._stem}-{kind}-{number}".encode()


def _open_datagram_socket() -> socket.socket:
    return socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
