"""Signals of the process: stop, and reload of the configuration.

threading.Event is not used: set() within a signal handler can deadlock when the signal arrives inside wait() of the same event.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
from collections.abc import Callable, Sequence
from types import FrameType, TracebackType
from typing import Self

WAIT_SLICE_SECONDS = 3600.0
"""Longest single wait for a signal: a wait without an end is repeated in slices of this length."""

Handler = Callable[[int, FrameType | None], object] | int | signal.Handlers | None


class StopSignal:
    """Set by SIGTERM and SIGINT; SIGHUP requests a reload. A context manager that restores the former handlers.

    Enter it on the main thread; wait() and is_set() serve any thread.
    """

    def __init__(self, *, wake_on: Sequence[signal.Signals] = (), wake_sockets: Sequence[socket.socket] = ()) -> None:
        """`wake_on`: further signals that end a wait() early, such as SIGCHLD. `wake_sockets`: sockets whose datagrams do."""
        self._wake_on, self._wake_sockets = wake_on, wake_sockets
        self._stopped = False
        self._reload = False
        self._stop_reader, self._stop_writer = _open_pipe()  # readable for ever once stopped
        self._wake_reader, self._wake_writer = _open_pipe()  # drained by the thread that wakes
        self._before: dict[signal.Signals, Handler] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._install_handler(number, lambda _number, _frame: self.set())
        self._install_handler(signal.SIGHUP, lambda _number, _frame: self._request_reload())
        for number in self._wake_on:
            self._install_handler(number, lambda _number, _frame: _write_wakeup(self._wake_writer))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        for descriptor in (self._stop_reader, self._stop_writer, self._wake_reader, self._wake_writer):
            os.close(descriptor)

    def is_set(self) -> bool:
        """Whether to stop."""
        return self._stopped

    def set(self) -> None:
        """Request a stop, as SIGTERM does."""
        self._stopped = True
        _write_wakeup(self._stop_writer)

    @property
    def reload_requested(self) -> bool:
        """Whether a reload was requested and not yet consumed."""
        return self._reload

    def consume_reload(self) -> bool:
        """Return `reload_requested` and clear it."""
        requested, self._reload = self._reload, False
        return requested

    def wait(self, seconds: float) -> bool:
        """Wait until stopped, woken or `seconds` are over; return is_set()."""
        if not self._stopped:
            poll = select.poll()
            poll.register(self._stop_reader, select.POLLIN)
            for descriptor in (self._wake_reader, *(wake.fileno() for wake in self._wake_sockets)):
                poll.register(descriptor, select.POLLIN)
            ready = {descriptor for descriptor, _ in poll.poll(max(0.0, seconds) * 1000)}
            if self._wake_reader in ready:
                _drain_pipe(self._wake_reader)
            for wake_socket in self._wake_sockets:
                if wake_socket.fileno() in ready:
                    _drain_socket(wake_socket)
        return self._stopped

    def _request_reload(self) -> None:
        self._reload = True
        _write_wakeup(self._wake_writer)

    def _install_handler(self, number: signal.Signals, handler: Callable[[int, FrameType | None], object]) -> None:
        self._before[number] = signal.signal(number, handler)


def should_stop(stop: StopSignal) -> bool:
    """Whether a role is to end. It ends for a reload, too: its supervisor restarts it with the new configuration."""
    return stop.is_set() or stop.reload_requested


def wait_for_stop(stop: StopSignal) -> None:
    """Wait until the role is to end."""
    while not should_stop(stop):
        stop.wait(WAIT_SLICE_SECONDS)


def _open_pipe() -> tuple[int, int]:
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    return reader, writer


def _write_wakeup(writer: int) -> None:
    try:
        os.write(writer, b"!")
    except BlockingIOError:
        return  # full: the waiting thread wakes anyway


def _drain_pipe(reader: int) -> None:
    try:
        os.read(reader, 4096)
    except BlockingIOError:
        return  # another thread was quicker


def _drain_socket(wake_socket: socket.socket) -> None:
    """Receive all waiting datagrams: together they are one wake-up."""
    with contextlib.suppress(BlockingIOError):
        while True:
            wake_socket.recv(16)
