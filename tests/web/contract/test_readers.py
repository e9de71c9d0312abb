"""Two readers: second readings, their agreement, and a verdict on what is in dispute."""

from __future__ import annotations

from dataclasses import replace

from adapters.web.application import build_application
from pipeline.domain import UserRole
from pipeline.labelling import ReadingPolicy
from tests.builders.desk import Desk
from tests.builders.dicom_files import dx
from tests.builders.sql import rows


def test_a_share_of_the_studies_comes_to_a_second_reader(desk: Desk) -> None:
    desk.add_user("alice")
    desk.add_user("bob")
    studies = desk.add_films(8)
    for number, study in enumerate(studies):
        desk.client("alice").post(f"/label/reading?study={study}", json={"key": f"key-{number:04d}", "rest_absent": True})
    assert desk.client("bob").get("/label/tasks?limit=8").json()["tasks"] == []
    for share, least, most in ((1.0, 8, 8), (0.5, 1, 7)):
        desk.parts = replace(desk.parts, settings=replace(desk.parts.settings, readings=ReadingPolicy(second_reading=share)))
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
    assert rows(desk.url, "SELECT finding, state, source, selection_reason, exposure FROM v_labels WHERE reader = 'carol'") == [
        ("Mass", "absent", "desk", "verdict", "none")
    ]
    assert "alice and carol" not in carol.get("/readers").text  # a verdict is no independent reading


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


def test_a_film_comes_to_its_reader_a_second_time_before_its_result(desk: Desk) -> None:
    desk.add_user("alice")
    desk.add_user("root", UserRole.ADMINISTRATOR)
    desk.parts = replace(
        desk.parts, settings=replace(desk.parts.settings, readings=ReadingPolicy(repeated_reading=1, repeat_days=0))
    )
    desk.application = build_application(desk.parts)
    study = desk.add_film(dx(), scores={"Mass": 0.9})
    alice = desk.client("alice")
    first = alice.post(
        f"/label/reading?study={study}", json={"states": {"Mass": "present"}, "key": "key-0001", "rest_absent": True}
    ).json()
    assert (first["is_withheld"], first["findings"], first["reason"]) == (True, [], "")
    assert alice.get(f"/label/reveal?study={study}").json()["findings"] == []
    [task] = alice.get("/label/tasks").json()["tasks"]
    assert (task["study"], task["draft"]["states"], task["is_stated"]) == (study, {}, False)
    again = alice.post(f"/label/reading?study={study}", json={"key": "key-0002", "rest_absent": True}).json()
    assert (again["is_withheld"], again["new_labels"], again["words"]) == (False, 0, "14 absent")
    assert len(again["findings"]) == 14
    assert alice.get("/label/tasks").json()["tasks"] == []
    assert rows(desk.url, "SELECT state FROM v_labels WHERE finding = 'Mass'") == [("present",)]
    assert rows(desk.url, "SELECT repeated, exposure FROM v_readings ORDER BY id") == [(0, "none"), (1, "none")]
    for name in ("alice", "root"):
        assert "<td>Mass</td><td>alice</td>" in desk.client(name).get("/readers").text
