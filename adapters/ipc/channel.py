"""The channel between the learn worker and its ranks: messages of JSON fields, with arrays in shared memory."""

from __future__ import annotations

import json
import socket
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from adapters.ipc.shared_arrays import NamedArrays, SharedArrays

MessageFields = dict[str, Any]

_MAX_MESSAGE_BYTES = 1 << 16  # of the JSON fields; arrays go by descriptor
_ENCLOSED = "enclosed"
"""Field of a message: the layouts of its arrays."""


class ChannelClosed(Exception):
    """The other end has closed the channel, or its process has ended."""


class Channel:
    """One end of a connection. Messages arrive whole and in order (unix(7), SOCK_SEQPACKET)."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end

    @classmethod
    def connect(cls, path: Path) -> Channel:
        """Connect. OSError where no process listens."""
        end = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        end.connect(str(path))
        return cls(end)

    def fileno(self) -> int:
        """Return the descriptor, which becomes readable when a message waits."""
        return self._end.fileno()

    def send(self, fields: MessageFields, arrays: SharedArrays | None = None) -> None:
        """Send a message. ChannelClosed."""
        descriptors = [arrays.descriptor] if arrays is not None else []
        message = fields | ({_ENCLOSED: arrays.message_fields()} if arrays is not None else {})
        try:
            socket.send_fds(self._end, [json.dumps(message).encode()], descriptors)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise ChannelClosed from error

    def receive(self) -> tuple[MessageFields, NamedArrays]:
        """Wait for a message; return its fields and its arrays. ChannelClosed."""
        try:
            received, descriptors, _, _ = socket.recv_fds(self._end, _MAX_MESSAGE_BYTES, 1)
        except ConnectionResetError:  # reported once where the other end closed with messages unread, before its own last messages
            received, descriptors, _, _ = socket.recv_fds(self._end, _MAX_MESSAGE_BYTES, 1)
        if not received:
            raise ChannelClosed
        fields = json.loads(received)
        if not descriptors:
            return fields, {}
        with closing(SharedArrays.from_message(descriptors[0], fields.pop(_ENCLOSED))) as arrays:
            return fields, arrays.map_arrays()

    def shutdown_and_wait(self, seconds: float) -> None:
        """Shut down our direction, wait at most `seconds` until the other end has closed, then close."""
        with suppress(OSError), closing(self._end):  # of which a TimeoutError is one
            self._end.shutdown(socket.SHUT_WR)
            self._end.settimeout(seconds)
            with suppress(ChannelClosed):
                while True:
                    self.receive()

    def close(self) -> None:
        """Close the connection."""
        self._end.close()
