"""Cookies, tokens, passwords and the limit of failed log-ins."""

from __future__ import annotations

import pytest

from adapters.web.passwords import hash_password, matches_password
from adapters.web.sessions import LOCK_SECONDS, MAX_FAILURES, MAX_LOCK_SECONDS, LogInLimit, SessionCookies
from pipeline.domain import User, UserRole
from pipeline.errors import PermanentError

ALICE = User(name="alice", role=UserRole.READER, password_hash="", session_key="key")


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def test_a_session_ends_when_it_is_idle() -> None:
    clock = Clock()
    cookies = SessionCookies(b"secret", idle_seconds=100, clock=clock)
    cookie = cookies.issue(ALICE)
    session = cookies.read(cookie)
    assert session is not None
    assert (session.name, session.session_key) == ("alice", "key")
    assert not cookies.needs_renewal(session)
    clock.now += 50
    assert cookies.needs_renewal(session)
    clock.now += 51
    assert cookies.read(cookie) is None


@pytest.mark.parametrize("cookie", ["", "alice", "eyJ.x.y", "\x00", "W10.AAAA"])
def test_a_cookie_that_is_not_ours_is_no_session(cookie: str) -> None:
    assert SessionCookies(b"secret", idle_seconds=100).read(cookie) is None


def test_a_changed_cookie_is_no_session() -> None:
    cookie = SessionCookies(b"secret", idle_seconds=100).issue(ALICE)
    assert SessionCookies(b"another", idle_seconds=100).read(cookie) is None
    assert SessionCookies(b"secret", idle_seconds=100).read(cookie[:-2] + "AA") is None


def test_the_token_of_forms_is_the_users_own() -> None:
    cookies = SessionCookies(b"secret", idle_seconds=100)
    bob = User(name="bob", role=UserRole.READER, password_hash="", session_key="key")
    token = cookies.make_csrf_token(ALICE)
    assert cookies.is_csrf_token(ALICE, token)
    assert not cookies.is_csrf_token(bob, token)
    assert not cookies.is_csrf_token(ALICE, "")
    assert not cookies.is_csrf_token(ALICE, "\udcff")


def test_failed_log_ins_lock_the_name_and_the_address_for_a_growing_time() -> None:
    clock = Clock()
    limit = LogInLimit(clock)
    for _ in range(MAX_FAILURES - 1):
        limit.record_failure("name a", "address 1")
    assert limit.seconds_to_wait("name a", "address 1") == 0
    limit.record_failure("name a", "address 1")
    assert limit.seconds_to_wait("name a") == LOCK_SECONDS
    assert limit.seconds_to_wait("name b", "address 1") == LOCK_SECONDS
    assert limit.seconds_to_wait("name b", "address 2") == 0
    clock.now += LOCK_SECONDS
    assert limit.seconds_to_wait("name a") == 0
    for _ in range(30):
        limit.record_failure("name a")
    assert limit.seconds_to_wait("name a") == MAX_LOCK_SECONDS
    limit.record_success("name a")
    assert limit.seconds_to_wait("name a") == 0


def test_passwords_are_argon2id_hashes() -> None:
    hashed = hash_password("correct horse")
    assert hashed.startswith("$argon2id$")
    assert "correct" not in hashed
    assert matches_password(hashed, "correct horse")
    for wrong in ("Correct horse", "", "x" * 100_000):
        assert not matches_password(hashed, wrong)
    assert not matches_password(None, "the password of nobody")
    assert not matches_password("no hash", "correct horse")
    for refused in ("short", "x" * 1000):
        with pytest.raises(PermanentError, match="10 to 200 characters"):
            hash_password(refused)
