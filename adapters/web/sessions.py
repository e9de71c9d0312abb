"""Sessions: signed cookies, tokens against cross-site requests, and the limit of failed log-ins."""

from __future__ import annotations

import hashlib
import hmac
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from itsdangerous import BadData, URLSafeSerializer

from pipeline.domain import User

COOKIE_NAME = "radclipd_session"
RENEWALS_PER_SESSION = 20
"""The cookie is renewed after this part of its life, so that not every answer sets one."""
MAX_FAILURES = 5
"""Failed log-ins of one name, or from one address, before the next has to wait."""
LOCK_SECONDS = 30.0
MAX_LOCK_SECONDS = 900.0
MAX_TRACKED = 10_000
"""Names and addresses whose failures are remembered; the oldest are forgotten."""


@dataclass(frozen=True, slots=True)
class Session:
    """A log-in, as its cookie says."""

    name: str
    session_key: str  # of the user; another key in the catalog ends the session
    seen_at: float  # seconds since the epoch


class SessionCookies:
    """Signs and reads cookies."""

    def __init__(self, secret: bytes, *, idle_seconds: float, clock: Callable[[], float] = time.time) -> None:
        """A session ends `idle_seconds` after its last request."""
        self._serializer = URLSafeSerializer(secret, salt="radclipd session", signer_kwargs={"digest_method": hashlib.sha256})
        self._secret, self.idle_seconds, self._clock = secret, idle_seconds, clock

    def issue(self, user: User) -> str:
        """Return the cookie of a session that begins or goes on now."""
        return self._serializer.dumps([user.name, user.session_key, int(self._clock())])

    def read(self, cookie: str) -> Session | None:
        """Return the session; None where the cookie is not ours, or too old."""
        try:
            name, session_key, seen_at = self._serializer.loads(cookie)
        except (BadData, ValueError, TypeError):
            return None
        if not 0 <= self._clock() - seen_at + 1 <= self.idle_seconds + 1:
            return None
        return Session(name, session_key, seen_at)

    def needs_renewal(self, session: Session) -> bool:
        """Tell whether the cookie is to be set again."""
        return self._clock() - session.seen_at > self.idle_seconds / RENEWALS_PER_SESSION

    def make_csrf_token(self, user: User) -> str:
        """Return the token that each changing request of the user's sessions carries."""
        return hmac.new(self._secret, f"csrf\n{user.name}\n{user.session_key}".encode(), hashlib.sha256).hexdigest()

    def is_csrf_token(self, user: User, token: str) -> bool:
        """Tell whether the token is the user's, in constant time."""
        return hmac.compare_digest(self.make_csrf_token(user).encode(), token.encode("utf-8", "replace"))


class LogInLimit:
    """Failed log-ins by name and by address: after MAX_FAILURES each further failure doubles the wait. Thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self._failures: OrderedDict[str, tuple[int, float]] = OrderedDict()  # key -> failures, time of the last

    def seconds_to_wait(self, *keys: str) -> float:
        """Return the time until one of these names and addresses may try again; 0: now."""
        with self._lock:
            return max(self._compute_wait(key) for key in keys)

    def record_failure(self, *keys: str) -> None:
        """Count a failed log-in."""
        with self._lock:
            for key in keys:
                count, _ = self._failures.pop(key, (0, 0.0))
                self._failures[key] = (count + 1, self._clock())
            while len(self._failures) > MAX_TRACKED:
                self._failures.popitem(last=False)

    def record_success(self, *keys: str) -> None:
        """Forget the failures of these names and addresses."""
        with self._lock:
            for key in keys:
                self._failures.pop(key, None)

    def _compute_wait(self, key: str) -> float:
        count, last = self._failures.get(key, (0, 0.0))
        if count < MAX_FAILURES:
            return 0.0
        lock = min(LOCK_SECONDS * 2.0 ** min(count - MAX_FAILURES, 10), MAX_LOCK_SECONDS)
        return max(0.0, last + lock - self._clock())
