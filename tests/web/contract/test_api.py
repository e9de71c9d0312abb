"""The interface for programs: tokens, filters, pages by key, forms, and whatever a fuzzer sends."""

from __future__ import annotations

import csv
import io
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from pipeline.domain import UserRole
from pipeline.users import disable_user, make_token
from tests.builders.catalog_rows import import_statement
from tests.builders.desk import Desk
from tests.builders.dicom_files import dx
from tests.conftest import DATABASES

PATHS = ("studies", "predictions", "labels", "versions")


def program(desk: Desk, name: str) -> TestClient:
    client = desk.client()
    client.headers["Authorization"] = f"Bearer {make_token(name, catalog=desk.catalog, source='test')}"
    return client


@pytest.fixture
def filled(desk: Desk) -> Iterator[Desk]:
    """Five scored studies, one of them labelled by bob."""
    desk.add_user("root", UserRole.ADMINISTRATOR)
    desk.add_user("viewer", UserRole.VIEWER)
    studies = [desk.add_film(dx(AccessionNumber=f"=A{number}", PatientID=f"P{number}")) for number in range(5)]
    import_statement(desk.catalog, studies[0], reader="bob")
    yield desk


def test_a_token_opens_it_and_a_disabled_user_does_not(filled: Desk) -> None:
    for path in PATHS:
        assert filled.client().get(f"/api/v1/{path}").status_code == 401
        assert filled.client().get(f"/api/v1/{path}", headers={"Authorization": "Bearer wrong"}).status_code == 401
    client = program(filled, "viewer")
    assert client.get("/api/v1/studies").status_code == 200
    assert client.post("/api/v1/studies", json={}).status_code == 405
    disable_user("viewer", catalog=filled.catalog, source="test")
    assert client.get("/api/v1/studies").status_code == 401


def test_pages_by_key_give_every_row_once(filled: Desk) -> None:
    client, found, after = program(filled, "root"), [], None
    while True:
        page = client.get("/api/v1/studies", params={"limit": 2, **({"after": after} if after else {})}).json()
        found += [row["study_instance_uid"] for row in page["rows"]]
        after = page["next"]
        if after is None:
            break
    assert len(found) == len(set(found)) == 5
    first = client.get("/api/v1/predictions?limit=2").json()
    assert len(first["rows"]) == 28
    rest = client.get("/api/v1/predictions", params={"after": first["next"]}).json()["rows"]
    assert len(rest) == 42
    assert not {row["study_instance_uid"] for row in rest} & {row["study_instance_uid"] for row in first["rows"]}


@pytest.mark.parametrize("engine", DATABASES)
def test_pages_miss_and_repeat_nothing_while_others_write(engine: str, fresh_url: Callable[[str], str], tmp_path: Path) -> None:
    """Labels: every one of them, in order, to a program that asks on and on. Studies: each that was there when the pages began."""
    desk = Desk(fresh_url(engine), tmp_path / "images")
    desk.add_version()
    desk.add_user("root", UserRole.ADMINISTRATOR)
    studies = sorted(desk.add_films(12))
    client = program(desk, "root")
    begin = threading.Barrier(4)

    def write(number: int) -> None:
        begin.wait(10)
        for study in studies[number::3]:
            import_statement(desk.catalog, study, reader=f"reader {number}")
            desk.add_film(dx(PatientID=f"N-{study}"))

    def read_page(path: str, after: Any) -> list[dict[str, Any]]:
        answer = client.get(f"/api/v1/{path}", params={"limit": 5} | ({} if after is None else {"after": after}))
        assert answer.status_code == 200, answer.text
        return list(answer.json()["rows"])

    writers = [threading.Thread(target=write, args=(number,)) for number in range(3)]
    for writer in writers:
        writer.start()
    begin.wait(10)
    labels: list[int] = []
    while True:
        are_writing = any(writer.is_alive() for writer in writers)
        page = read_page("labels", labels[-1] if labels else None)
        labels += [row["id"] for row in page]
        if not page and not are_writing:
            break
        if len(labels) == 5 or (are_writing and not page):
            seen = [row["study_instance_uid"] for row in walk(lambda after: read_page("studies", after), "study_instance_uid")]
            assert len(seen) == len(set(seen))
            assert set(studies) <= set(seen)
    with desk.catalog.read() as tx:
        assert labels == [label.id for label in tx.labels.all()]
    assert len(labels) == 12 * 14
    desk.close()


def walk(read_page: Callable[[Any], list[dict[str, Any]]], key: str) -> Iterator[dict[str, Any]]:
    after = None
    while page := read_page(after):
        yield from page
        after = page[-1][key]


@pytest.mark.parametrize(
    "value", ["Bearer", "Bearer ", "bearer \x80\xff", "Basic cm9vdDpyb290", f"Bearer {'x' * 5000}", "Bearer a b", "' OR 1=1"]
)
def test_an_odd_token_is_no_token(filled: Desk, value: str) -> None:
    for path in PATHS:
        assert filled.client().get(f"/api/v1/{path}", headers=[(b"Authorization", value.encode("latin-1"))]).status_code == 401


@pytest.mark.parametrize("after", ["", "x", "-1", "1e3", "9" * 30, "1.2'", "%00", "NaN", "1.2,1.3"])
def test_an_odd_place_to_go_on_from_is_refused_or_empty(filled: Desk, after: str) -> None:
    client = program(filled, "root")
    for path in PATHS:
        answer = client.get(f"/api/v1/{path}", params={"after": after})
        assert answer.status_code == 422 or (answer.status_code == 200 and answer.json()["rows"] == []), (path, answer.text)


def test_filters(filled: Desk) -> None:
    client = program(filled, "root")
    assert len(client.get("/api/v1/labels?reader=bob&finding=Mass").json()["rows"]) == 1
    assert client.get("/api/v1/labels?reader=eve").json() == {"rows": [], "next": None}
    assert client.get("/api/v1/labels?exposure=seen").json()["rows"] == []
    assert [row["number"] for row in client.get("/api/v1/versions?state=serving").json()["rows"]] == [1]
    assert len(client.get("/api/v1/studies?accession_number==A3").json()["rows"]) == 1
    assert client.get("/api/v1/labels?state=maybe").status_code == 422


def test_the_identity_of_patients_needs_its_role(filled: Desk) -> None:
    for name, shown in (("root", True), ("viewer", False)):
        client = program(filled, name)
        text = "".join(client.get(f"/api/v1/{path}?form={form}").text for path in PATHS for form in ("json", "csv"))
        assert ("P3" in text) == ("=A3" in text) == shown
        assert client.get("/api/v1/studies?accession_number=A3").status_code == (200 if shown else 403)


def test_forms(filled: Desk) -> None:
    client = program(filled, "root")
    table = list(csv.DictReader(io.StringIO(client.get("/api/v1/studies?form=csv").text)))
    assert sorted(row["accession_number"] for row in table) == [f"'=A{number}" for number in range(5)]
    with pyarrow.ipc.open_file(client.get("/api/v1/predictions?form=arrow").content) as file:
        assert file.read_all().num_rows == 70
    assert client.get("/api/v1/labels?form=csv&reader=eve").text == ""


def test_the_description_names_every_path(filled: Desk) -> None:
    description = program(filled, "viewer").get("/api/v1/openapi.json").json()
    assert set(description["paths"]) == {f"/api/v1/{path}" for path in PATHS}
    assert description["security"] == [{"token": []}]


def list_parameters(description: dict[str, Any]) -> list[tuple[str, list[str]]]:
    return [(path, [one["name"] for one in found["get"]["parameters"]]) for path, found in description["paths"].items()]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_value_of_a_parameter_is_an_error_of_the_server(filled: Desk, data: st.DataObject) -> None:
    client = filled.client("root")
    path, names = data.draw(st.sampled_from(list_parameters(client.get("/api/v1/openapi.json").json())))
    odd = st.one_of(
        st.text(max_size=80),
        st.integers().map(str),
        st.sampled_from(["1.2.3", "csv", "arrow", "present", "\x00", "'; DROP TABLE labels"]),
    )
    wanted = data.draw(st.dictionaries(st.sampled_from(names), odd, max_size=4))
    answer = client.get(path, params=wanted)
    assert answer.status_code in (200, 422), (path, wanted, answer.text)
