"""The interface for programs: rows of the promised views, read only, by pages of a key; JSON, CSV or Arrow.

A program sends `Authorization: Bearer TOKEN` (`radclipd users token NAME`). The description is at /api/v1/openapi.json.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from importlib.metadata import version
from typing import Annotated, Any

from fastapi import APIRouter, BackgroundTasks, Depends, HTTPException, Query, Request
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse, Response

from adapters.web.access import TokenUser
from adapters.web.access_events import audit_later
from adapters.web.parts import parts_of
from adapters.web.study_routes import IDENTITY
from pipeline.domain import FINDINGS, AuditEvent, Decision, LabelExposure, LabelState, StudyState, User, VersionState
from pipeline.users import Permission, may

MAX_ROWS = 1000
MAX_TEXT_LENGTH = 64
UID_PATTERN = r"^[0-9.]{1,64}$"
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
"""A cell that begins so is a formula to a spreadsheet; a quote in front makes it a text."""
CSV_TYPE, ARROW_TYPE = "text/csv; charset=utf-8", "application/vnd.apache.arrow.file"
PAGE_SCHEMA = {
    "type": "object",
    "required": ["rows", "next"],
    "properties": {
        "rows": {"type": "array", "items": {"type": "object"}},
        "next": {
            "type": ["string", "integer", "null"],
            "description": "The value of `after` for the next page; null: the last one.",
        },
    },
}
ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "rows of the view in the form asked for",
        "content": {
            "application/json": {"schema": PAGE_SCHEMA},
            CSV_TYPE: {"schema": {"type": "string"}},
            ARROW_TYPE: {"schema": {"type": "string", "format": "binary"}},
        },
        "headers": {"X-Next": {"description": "As `next`; missing on the last page.", "schema": {"type": "string"}}},
    },
    401: {"description": "no valid token"},
    403: {"description": "the user's role may not do this"},
    406: {"description": "Arrow needs the extra radclipd[lab]"},
    503: {"description": "the catalog is out of reach"},
}


def audit_reading(request: Request, user: TokenUser, background: BackgroundTasks) -> None:
    """Note who has read which view. Filters are left out: they may name a patient."""
    event = AuditEvent("export", "done", "", f"{request.method} {request.url.path}", f"token:{user.name}")
    audit_later(event, background, parts_of(request))


router = APIRouter(prefix="/api/v1", responses=ANSWERS, dependencies=[Depends(audit_reading)])


class Form(StrEnum):
    """Form of the rows."""

    JSON = "json"
    CSV = "csv"
    ARROW = "arrow"  # an Arrow IPC file


Uid = Annotated[str | None, Query(pattern=UID_PATTERN)]
Text = Annotated[str | None, Query(max_length=MAX_TEXT_LENGTH, pattern=r"^[^\x00]*$")]
Limit = Annotated[int, Query(ge=1, le=MAX_ROWS)]
Rows = Sequence[Mapping[str, Any]]


@router.get("/openapi.json", include_in_schema=False)
def describe_interface(user: TokenUser) -> Response:
    """Return the OpenAPI description."""
    description = get_openapi(title="radclipd", version=version("radclipd"), routes=router.routes)
    description["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    description["security"] = [{"token": []}]
    return JSONResponse(description)


@router.get("/studies")
def list_studies(
    request: Request,
    user: TokenUser,
    state: StudyState | None = None,
    accession_number: Text = None,
    after: Uid = None,
    limit: Limit = 100,
    form: Form = Form.JSON,
) -> Response:
    """List studies (v_studies) in order of their UIDs. `after`: the last UID of the page before.

    The identity of patients, and the filter by accession number, need a role that may see it.
    """
    if accession_number is not None and not may(user.role, Permission.IDENTIFY):
        raise HTTPException(403, f"a user of the role {user.role.value} may not search by accession number")
    where = {"state": state, "accession_number": accession_number}
    rows = _select_rows(request, "v_studies", where, key="study_instance_uid", after=after, limit=limit)
    return _write_rows(rows, form, user, key="study_instance_uid", limit=limit)


@router.get("/predictions")
def list_predictions(
    request: Request,
    user: TokenUser,
    study_instance_uid: Uid = None,
    finding: Text = None,
    decision: Decision | None = None,
    after: Uid = None,
    limit: Limit = 100,
    form: Form = Form.JSON,
) -> Response:
    """List predictions of the current revision (v_predictions). A page holds those of up to `limit` studies."""
    with parts_of(request).catalog.read() as tx:
        where: dict[str, Any] = {"study_instance_uid": study_instance_uid} if study_instance_uid else {}
        edge = ("study_instance_uid", after) if after else None
        key = "study_instance_uid"
        studies = [row[key] for row in tx.views.select("v_studies", [key], where=where, order=[key], after=edge, limit=limit)]
        wanted = {key: studies, "finding": finding, "decision": decision}
        given = {name: value for name, value in wanted.items() if value is not None}
        rows = tx.views.select("v_predictions", where=given, order=[key, "finding"], limit=limit * len(FINDINGS))
    following = studies[-1] if len(studies) == limit else None
    return _write_rows(rows, form, user, key=key, limit=limit, following=following)


@router.get("/labels")
def list_labels(
    request: Request,
    user: TokenUser,
    study_instance_uid: Uid = None,
    finding: Text = None,
    state: LabelState | None = None,
    reader: Text = None,
    exposure: LabelExposure | None = None,
    after: Annotated[int | None, Query(ge=0, le=2**62)] = None,
    limit: Limit = 100,
    form: Form = Form.JSON,
) -> Response:
    """List labels (v_labels) in order of their numbers. `after`: the last number of the page before."""
    where = {"study_instance_uid": study_instance_uid, "finding": finding, "state": state, "reader": reader, "exposure": exposure}
    rows = _select_rows(request, "v_labels", where, key="id", after=after, limit=limit)
    return _write_rows(rows, form, user, key="id", limit=limit)


@router.get("/versions")
def list_versions(
    request: Request,
    user: TokenUser,
    state: VersionState | None = None,
    after: Annotated[int | None, Query(ge=0, le=2**31 - 1)] = None,
    limit: Limit = 100,
    form: Form = Form.JSON,
) -> Response:
    """List model versions (v_model_versions) in order of their numbers."""
    rows = _select_rows(request, "v_model_versions", {"state": state}, key="number", after=after, limit=limit)
    return _write_rows(rows, form, user, key="number", limit=limit)


def _select_rows(request: Request, view: str, where: Mapping[str, Any], *, key: str, after: Any, limit: int) -> Rows:
    given = {name: value for name, value in where.items() if value is not None}
    with parts_of(request).catalog.read() as tx:
        return tx.views.select(view, where=given, order=[key], after=(key, after) if after is not None else None, limit=limit)


def _write_rows(rows: Rows, form: Form, user: User, *, key: str, limit: int, following: Any = None) -> Response:
    """Return the rows without what the user may not see; `X-Next` and `next` hold the value of `after` for the next page."""
    hidden = () if may(user.role, Permission.IDENTIFY) else IDENTITY
    shown = [{name: value for name, value in row.items() if name not in hidden} for row in rows]
    if following is None and len(shown) == limit:
        following = shown[-1][key]
    headers = {} if following is None else {"X-Next": str(following)}
    if form is Form.CSV:
        return Response(_write_csv(shown), media_type=CSV_TYPE, headers=headers)
    if form is Form.ARROW:
        return Response(_write_arrow(shown), media_type=ARROW_TYPE, headers=headers)
    plain = [{name: _convert_value(value) for name, value in row.items()} for row in shown]
    return JSONResponse({"rows": plain, "next": following}, headers=headers)


def _convert_value(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value


def _write_csv(rows: Rows) -> str:
    text = io.StringIO()
    if rows:
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(rows[0])
        writer.writerows([_escape_cell(_convert_value(value)) for value in row.values()] for row in rows)
    return text.getvalue()


def _escape_cell(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA_STARTS) else value


def _write_arrow(rows: Rows) -> bytes:
    try:
        import pyarrow
    except ImportError as error:
        raise HTTPException(406, "Arrow needs the extra radclipd[lab] on the server: ask for json or csv") from error
    flat = [{name: str(value) if isinstance(value, dict) else value for name, value in row.items()} for row in rows]
    table, sink = pyarrow.Table.from_pylist(flat), pyarrow.BufferOutputStream()
    with pyarrow.ipc.new_file(sink, table.schema) as file:
        file.write_table(table)
    return bytes(sink.getvalue().to_pybytes())
