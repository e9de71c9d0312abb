"""TLS handshakes of accepted connections: threads do the cryptography, none of them waits for a peer."""

from __future__ import annotations

import selectors
import socket
import ssl
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar, cast

from adapters.dicom.network.tls import PeerCertificate, describe_tls_fault

HANDSHAKE_THREADS = 2
"""A signature takes a millisecond or two of a processor; a third thread would take processors from the associations."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class HandshakeResult(Generic[T]):
    """What has come of one step: the events to wait for before the next one, the reason of a failure, or the certificate."""

    subject: T
    awaited_events: int = 0
    fault: str = ""
    certificate: PeerCertificate | None = None


class Handshakes(Generic[T]):
    """Takes steps of handshakes on threads of its own. One step at a time for each connection, whose socket does not block."""

    def __init__(self, notify: Callable[[], None]) -> None:
        """`notify` is called after each step, on its thread."""
        self._notify = notify
        self._threads: ThreadPoolExecutor | None = None  # a port without TLS needs none
        self._results: deque[HandshakeResult[T]] = deque()

    def begin_step(self, subject: T, connection: socket.socket) -> None:
        """Go on with the handshake, as far as the peer's bytes allow."""
        if self._threads is None:
            self._threads = ThreadPoolExecutor(HANDSHAKE_THREADS, thread_name_prefix="handshake")
        self._threads.submit(self._take_step, subject, cast(ssl.SSLSocket, connection))

    def take_results(self) -> Iterator[HandshakeResult[T]]:
        """Yield the results of the steps that have ended, each once."""
        while self._results:
            yield self._results.popleft()

    def close(self) -> None:
        """End the steps under way; none of them waits."""
        if self._threads is not None:
            self._threads.shutdown(wait=True)

    def _take_step(self, subject: T, connection: ssl.SSLSocket) -> None:
        self._results.append(_shake_hands(subject, connection))
        self._notify()


def _shake_hands(subject: T, connection: ssl.SSLSocket) -> HandshakeResult[T]:
    try:
        connection.do_handshake()
        return HandshakeResult(subject, certificate=PeerCertificate.of_connection(connection))
    except ssl.SSLWantReadError:
        return HandshakeResult(subject, awaited_events=selectors.EVENT_READ)
    except ssl.SSLWantWriteError:
        return HandshakeResult(subject, awaited_events=selectors.EVENT_WRITE)
    except Exception as error:  # of any kind: it ends this connection and no other
        return HandshakeResult(subject, fault=describe_tls_fault(error))
