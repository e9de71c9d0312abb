"""Two readers: second readings, their agreement, and a verdict on what is in dispute."""

from __future__ import annotations

from dataclasses import replace

from adapters.web.application import build_application
from pipeline.domain import UserRole
from tests.builders.desk import Desk
from tests.builders.sql import rows


def test_a_share_of_the_studies_comes_to_a_second_reader(desk: Desk) -> None:
    desk.add_user("alice")
    desk.add_user("bob")
    studies = desk.add_films(8)
    for number, study in enumerate(studies):
        desk.client("alice").post(f"/label/reading?study={study}", json={"key": f"key-{number:04d}", "rest_absent": True})
    assert desk.client("bob").get("/label/tasks?limit=8").json()["tasks"] == []
    for share, least, most in ((1.0, 8, 8), (0.5, 1, 7)):
        desk.parts = replace(desk.parts, settings=replace(desk.parts.settings, second_reading=share))
        desk.application = build_application(desk.parts)
        offered = [task["study"] for task in desk.client("bob").get("/label/tasks?limit=8").json()["tasks"]]
        assert least <= len(offered) <= most
        assert offered == [study for study in studies if study in offered]
        assert desk.client("alice").get("/label/tasks?limit=8").json()["tasks"] == []
    told = desk.client("bob").get(f"/label/task?study={studies[0]}").json()
    assert (told["draft"]["states"], told["is_stated"]) == ({}, False)


def test_a_dispute_is_shown_side_by_side_and_decided(desk: Desk) -> None:
    for name in ("alice", "bob", "carol"):
        desk.add_user(name)
    desk.add_user("viewer", UserRole.VIEWER)
    [study] = desk.add_films(1)
    for name, states in (("alice", {"Mass": "present"}), ("bob", {})):
        body = {"states": states, "key": f"key of {name}", "rest_absent": True}
        assert desk.client(name).post(f"/label/reading?study={study}", json=body).status_code == 200
    carol = desk.client("carol")
    assert f"/readers/dispute?study={study}" in carol.get("/readers").text
    page = carol.get(f"/readers/dispute?study={study}").text
    assert page.index("alice") < page.index("bob")
    assert "Nodule" not in page
    verdict = {"finding": "Mass", "state": "absent"}
    assert desk.client("viewer").post(f"/readers/verdict?study={study}", json=verdict).status_code == 403
    assert carol.post(f"/readers/verdict?study={study}", json={"finding": "Fracture", "state": "absent"}).status_code == 422
    assert carol.post(f"/readers/verdict?study={study}", json=verdict).status_code == 200
    assert rows(desk.url, "SELECT finding, state, source, exposure FROM v_labels WHERE reader = 'carol'") == [
        ("Mass", "absent", "desk", "none")
    ]


def test_a_reader_sees_the_own_agreement_and_an_administrator_everybodys(desk: Desk) -> None:
    for name in ("alice", "bob", "carol"):
        desk.add_user(name)
    desk.add_user("root", UserRole.ADMINISTRATOR)
    [study] = desk.add_films(1)
    for name in ("alice", "bob"):
        body = {"key": f"key of {name}", "rest_absent": True}
        desk.client(name).post(f"/label/reading?study={study}", json=body)
    assert "alice and bob" in desk.client("alice").get("/readers").text
    assert "alice and bob" in desk.client("root").get("/readers").text
    assert "alice and bob" not in desk.client("carol").get("/readers").text
