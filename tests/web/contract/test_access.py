"""Who may: log-in, sessions, roles, cross-site requests, and what attackers of other web interfaces have tried."""

from __future__ import annotations

import re

import pytest
from fastapi.routing import APIRoute

from adapters.web.access import CSRF_HEADER
from adapters.web.application import ROUTERS, STATIC_FOLDER
from adapters.web.sessions import MAX_FAILURES
from pipeline.domain import UserRole
from pipeline.users import disable_user, make_token, reset_password
from tests.builders.desk import PASSWORD, Desk, password_hash
from tests.builders.dicom_files import dx
from tests.builders.sql import rows

FORM = {"Content-Type": "application/x-www-form-urlencoded"}
WITHOUT_LOG_IN = {"/log-in", "/health/live", "/health/ready", "/static"}
READING = {"states": {"Mass": "present"}, "key": "key-0001", "rest_absent": True}


def test_a_log_in_begins_a_session_in_a_protected_cookie(desk: Desk) -> None:
    desk.add_user()
    client = desk.client()
    answer = client.post("/log-in", data={"name": "alice", "password": PASSWORD})
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert "secure" not in cookie  # no TLS here
    assert client.get("/label").status_code == 200
    assert PASSWORD not in str(rows(desk.url, "SELECT * FROM users, audit_events"))
    assert rows(desk.url, "SELECT outcome, source FROM v_audit WHERE action = 'log-in'") == [("done", "alice")]


def test_a_refusal_does_not_tell_which_names_exist(desk: Desk) -> None:
    desk.add_user("alice")
    desk.add_user("gone")
    disable_user("gone", catalog=desk.catalog, source="test")
    texts = []
    for name, password in (("alice", "wrong password"), ("nobody", PASSWORD), ("gone", PASSWORD), ("' OR 1=1 --", PASSWORD)):
        answer = desk.client().post("/log-in", data={"name": name, "password": password})
        assert answer.status_code == 401
        assert "set-cookie" not in answer.headers
        texts.append(answer.text)
    assert len(set(texts)) == 1


def test_failed_log_ins_are_limited(desk: Desk) -> None:
    desk.add_user()
    client = desk.client()
    for _ in range(MAX_FAILURES):
        assert client.post("/log-in", data={"name": "alice", "password": "wrong password"}).status_code == 401
    answer = client.post("/log-in", data={"name": "alice", "password": PASSWORD})
    assert answer.status_code == 429
    assert "try again in" in answer.text


def list_addresses() -> list[tuple[str, str]]:
    """Every route of the desk: method and address."""
    routes = (route for router in ROUTERS for route in router.routes)
    found = [(method, str(route.path)) for route in routes if isinstance(route, APIRoute) for method in route.methods or ()]
    return sorted((method, re.sub(r"\{\w+\}", "1.2.3", path)) for method, path in found)


def test_every_page_but_the_log_in_needs_a_session(desk: Desk) -> None:
    addresses = [(method, path) for method, path in list_addresses() if path not in WITHOUT_LOG_IN]
    assert len(addresses) > 10
    client = desk.client()
    for method, path in addresses:
        answer = client.request(method, path, content=b"{}" if method not in ("GET", "HEAD") else None)
        assert answer.status_code in (401, 405), (method, path, answer.status_code)
        page = client.request(method, path, headers={"Accept": "text/html"}, content=b"{}" if method != "GET" else None)
        assert page.status_code in (303, 401, 405), (method, path)


def test_a_session_ends_with_a_disabled_user_another_password_and_the_log_out(desk: Desk) -> None:
    desk.add_user()
    client = desk.client("alice")
    assert client.get("/label/tasks").status_code == 200
    reset_password("alice", password_hash(), catalog=desk.catalog, source="test")
    assert client.get("/label/tasks").status_code == 401
    again = desk.client("alice")
    assert 'radclipd_session="";' in again.post("/log-out", json={}).headers["set-cookie"]
    third = desk.client("alice")
    disable_user("alice", catalog=desk.catalog, source="test")
    assert third.get("/label/tasks").status_code == 401


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": ""},
        {"Origin": "http://desk.evil.example"},
        {CSRF_HEADER: "0" * 64},
        {CSRF_HEADER: ""},
    ],
)
def test_a_request_of_another_site_changes_nothing(desk: Desk, headers: dict[str, str]) -> None:
    desk.add_user()
    [study] = desk.add_films(1)
    client = desk.client("alice")
    answer = client.post(f"/label/reading?study={study}", json=READING, headers=headers)
    assert answer.status_code == 403
    assert rows(desk.url, "SELECT count(*) FROM labels") == [(0,)]


def test_roles_and_their_refusals(desk: Desk) -> None:
    [study] = desk.add_films(1)
    for role in UserRole:
        desk.add_user(role.value, role)
    may_label = {UserRole.READER, UserRole.ADMINISTRATOR}
    for role in UserRole:
        client = desk.client(role.value)
        assert client.get("/label").status_code == (200 if role in may_label else 403)
        body = {**READING, "key": f"key-of-{role.value}"}
        assert client.post(f"/label/reading?study={study}", json=body).status_code == (200 if role in may_label else 403)
    assert rows(desk.url, "SELECT DISTINCT reader FROM v_labels ORDER BY reader") == [("administrator",), ("reader",)]


def test_answers_have_a_policy_without_inline_script(desk: Desk) -> None:
    desk.add_user()
    client = desk.client("alice")
    for path in ("/label", "/log-in", "/nothing", "/label/tasks"):
        headers = client.get(path).headers
        assert "script-src 'self'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["cache-control"] == "no-store"
        assert headers["x-content-type-options"] == "nosniff"
    for template in (STATIC_FOLDER.parent / "templates").glob("*.html"):
        text = template.read_text()
        assert not re.search(r"<script(?![^>]*\bsrc=)|\son\w+=|javascript:|<style|\sstyle=|\|\s*safe", text), template.name


@pytest.mark.parametrize("path", ["/static/../parts.py", "/static/%2e%2e/parts.py", "/static/..%2fparts.py", "/static//etc/passwd"])
def test_no_path_leads_out_of_the_static_folder(desk: Desk, path: str) -> None:
    assert desk.client().get(path).status_code == 404


def test_a_request_is_bounded(desk: Desk) -> None:
    desk.add_user()
    [study] = desk.add_films(1)
    client = desk.client("alice")
    assert client.put(f"/label/draft?study={study}", json={"comment": "x" * 70_000}).status_code == 413
    assert client.put(f"/label/draft?study={study}", content=iter([b"{}"])).status_code == 411
    bodies: list[object] = [{"comment": "x" * 3000}, {"states": {"Mass": "maybe"}}, {"more": 1}, [], "text"]
    for body in bodies:
        assert client.put(f"/label/draft?study={study}", json=body).status_code == 422
    assert client.put("/label/draft?study=1' OR '1'='1", json={}).status_code == 422


def test_words_of_people_are_shown_as_words(desk: Desk) -> None:
    """A name or an address with markup stays text: escaping is on in every template."""
    answer = desk.client().get("/<script>alert(1)</script>", headers={"Accept": "text/html"})
    assert "<script>alert" not in answer.text


def test_health(desk: Desk) -> None:
    client = desk.client()
    assert client.get("/health/live").json() == {"status": "live"}
    assert client.get("/health/ready").json() == {"status": "ready"}


def test_who_looks_is_in_the_audit_table(desk: Desk) -> None:
    desk.add_user()
    film = dx()
    study = desk.add_film(film)
    client = desk.client("alice")
    token = make_token("alice", catalog=desk.catalog, source="test")
    assert client.get(f"/studies/{study}").status_code == 200
    assert client.get("/films", params={"instance": str(film.SOPInstanceUID)}).status_code == 200
    read = desk.client().get("/api/v1/studies", params={"after": "1"}, headers={"Authorization": f"Bearer {token}"})
    assert read.status_code == 200
    assert client.post("/log-out").status_code == 200
    seen = rows(desk.url, "SELECT action, subject, source FROM v_audit WHERE action IN ('view', 'export', 'log-out') ORDER BY id")
    assert seen == [
        ("view", study, "alice"),
        ("view", str(film.SOPInstanceUID), "alice"),
        ("export", "", "token:alice"),
        ("log-out", "", "alice"),
    ]
