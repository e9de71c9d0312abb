"""The interface to systemd: notifications by datagram (sd_notify(3)) and passed sockets (sd_listen_fds(3)).

Outside systemd notifications are silently dropped, and no sockets are passed.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Mapping

from pipeline.errors import FatalError

FIRST_PASSED_FD = 3
BACKLOG = 128
SEND_SECONDS = 0.5
INHERITED_FDS = "RADCLIPD_LISTEN_FDS"
"""Variable by which our supervisor passes sockets to a child: descriptors joined by commas. systemd's own protocol needs
LISTEN_PID, the child's process id, which is unknown before the fork."""
SYSTEMD_VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", INHERITED_FDS)
"""Variables for one process; its children never inherit them."""


class Notifier:
    """Sends the state of this service to systemd."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        """Read $NOTIFY_SOCKET, $WATCHDOG_USEC and $WATCHDOG_PID from the environment."""
        environment = os.environ if environment is None else environment
        self._address = _parse_socket_address(environment.get("NOTIFY_SOCKET", ""))
        self.watchdog_seconds = _read_watchdog_seconds(environment)
        """Longest time between two WATCHDOG=1, seconds; None where systemd has no watchdog on this process."""

    def ready(self, status: str = "") -> None:
        """Report the end of a start or reload."""
        self._send_datagram("READY=1", *_format_status(status))

    def status(self, text: str) -> None:
        """Set the line that `systemctl status` shows."""
        self._send_datagram(*_format_status(text))

    def watchdog(self) -> None:
        """Report that the service is alive and healthy."""
        self._send_datagram("WATCHDOG=1")

    def reloading(self) -> None:
        """Report the beginning of a reload; ready() ends it."""
        self._send_datagram("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self, status: str = "") -> None:
        """Report that the service is stopping, by itself or by a signal."""
        self._send_datagram("STOPPING=1", *_format_status(status))

    def extend_timeout(self, seconds: float) -> None:
        """Ask for `seconds` more, from now, for the start, reload or stop under way."""
        self._send_datagram(f"EXTEND_TIMEOUT_USEC={int(seconds * 1_000_000)}")

    def _send_datagram(self, *lines: str) -> None:
        if not self._address or not lines:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.settimeout(SEND_SECONDS)
            try:
                sender.sendto("\n".join(lines).encode(), self._address)
            except OSError:
                return  # systemd is restarting or its queue is full: the next notification will do


def _parse_socket_address(name: str) -> str:
    """Return the socket's address; a leading @ stands for the abstract name space (unix(7))."""
    if name.startswith("@"):
        return "\0" + name[1:]
    return name if name.startswith("/") else ""


def _format_status(text: str) -> tuple[str, ...]:
    return (f"STATUS={' '.join(text.split())}",) if text else ()


def _read_watchdog_seconds(environment: Mapping[str, str]) -> float | None:
    """Return the watchdog's interval where this process is the watched one (sd_watchdog_enabled(3))."""
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    interval = environment.get("WATCHDOG_USEC", "")
    return int(interval) / 1_000_000 if interval.isdigit() and int(interval) > 0 else None


def listening_sockets() -> list[socket.socket]:
    """Return the listening stream sockets that systemd or our supervisor passed to this process, and clear their variables.

    FatalError where another kind of descriptor was passed.
    """
    if passed := os.environ.pop(INHERITED_FDS, ""):
        descriptors = [int(descriptor) for descriptor in passed.split(",")]
    else:
        descriptors = _read_activated_descriptors()
    for name in ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"):
        os.environ.pop(name, None)
    return [_adopt_socket(descriptor) for descriptor in descriptors]


def _read_activated_descriptors() -> list[int]:
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    return list(range(FIRST_PASSED_FD, FIRST_PASSED_FD + int(os.environ.get("LISTEN_FDS", "0"))))


def _adopt_socket(descriptor: int) -> socket.socket:
    try:
        adopted = socket.socket(fileno=descriptor)
        listens = adopted.type == socket.SOCK_STREAM and adopted.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise FatalError(
            f"descriptor {descriptor} was handed over, but is no socket: {error.strerror}", hint=_SOCKET_HINT
        ) from error
    if not listens:
        adopted.close()
        raise FatalError(f"descriptor {descriptor} was handed over, but is no listening stream socket", hint=_SOCKET_HINT)
    adopted.set_inheritable(False)
    return adopted


_SOCKET_HINT = "the socket unit needs ListenStream=PORT and Accept=no"


def bind(host: str, port: int, *, backlog: int = BACKLOG, port_key: str = "port") -> socket.socket:
    """Return a listening TCP socket. FatalError where the address is taken, unknown or not allowed."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=backlog, dualstack_ipv6=host == "::")
    except (OSError, UnicodeError) as error:
        message, hint = explain_bind_error(host, port, error, section="listener", host_key="host", port_key=port_key)
        raise FatalError(message, hint=hint) from error


def explain_bind_error(
    host: str, port: int, error: OSError | UnicodeError, *, section: str, host_key: str, port_key: str = "port"
) -> tuple[str, str]:
    """Return message and hint for an address of the configuration that cannot be bound."""
    if isinstance(error, (socket.gaierror, UnicodeError)):  # UnicodeError: no label of a name can be empty or long
        return (
            f"{section}.{host_key} = {host!r} is no address, and no name that this host resolves",
            f"write an address: {_ANY_HOST}",
        )
    message = f"cannot listen on {host} port {port}: {error.strerror or error}"
    if error.errno in (errno.EADDRNOTAVAIL, errno.EINVAL, errno.EAFNOSUPPORT):
        return f"{section}.{host_key} = {host!r} is not an address of this host", f"see `ip address`; {_ANY_HOST}"
    if error.errno in (errno.EACCES, errno.EPERM):
        return message, f"only root binds a port below 1024: let the socket unit bind it, or set {section}.{port_key}"
    return message, f"another program has the port (ss -ltnp), or set {section}.{port_key}"


_ANY_HOST = "0.0.0.0 is every address of this host, 127.0.0.1 this host only"
