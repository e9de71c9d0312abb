"""Labelling: the page, its tasks, drafts and readings, and the films."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, BackgroundTasks, HTTPException, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from adapters.web.access import AnyVisitor, ReadingVisitor
from adapters.web.access_events import audit_later
from adapters.web.pages import render_page
from adapters.web.parts import DeskParts, parts_of
from pipeline import labelling, worklist
from pipeline.domain import AuditEvent, Draft, Header, LabelState
from pipeline.labelling import MAX_COMMENT_LENGTH, SKIP_REASONS, DeskFilm, LabellingTask, Reveal

MAX_TASKS = 8
PREPARED_TASKS = 2
"""Tasks whose films are decoded before the browser asks for them."""
MAX_MORE = 200
"""Studies that a reader may ask for at a time."""
SESSION_HOURS = 12.0
"""Readings of this time count in the bar of a session."""
DEFAULT_SESSION = 20
UID_PATTERN = r"^[0-9.]{1,64}$"
DEFINITIONS_FILE = Path(__file__).parent / "definitions.toml"

router = APIRouter(include_in_schema=False)

Study = Annotated[str, Query(pattern=UID_PATTERN)]
AskedStudy = Annotated[str, Query(max_length=64)]


class Payload(BaseModel):
    """A request's JSON: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class StatementPayload(Payload):
    """What a reader has said of a study so far."""

    states: dict[str, LabelState] = Field(default={}, max_length=14)
    points: dict[str, tuple[float, float]] = Field(default={}, max_length=14)
    comment: str = Field(default="", max_length=MAX_COMMENT_LENGTH)

    def to_draft(self, study_instance_uid: str, reader: str) -> Draft:
        """Return the statement as the pipeline knows it."""
        values: dict[str, Any] = {"states": self.states, "points": self.points, "comment": self.comment}
        return Draft(study_instance_uid=study_instance_uid, reader=reader, **values)


class ReadingPayload(StatementPayload):
    """A finished statement."""

    key: str = Field(min_length=8, max_length=labelling.MAX_KEY_LENGTH)
    rest_absent: bool


class SkipPayload(Payload):
    """A skipped study."""

    reason: str = Field(max_length=64)
    key: str = Field(min_length=8, max_length=labelling.MAX_KEY_LENGTH)


class MorePayload(Payload):
    """A longer worklist."""

    count: int = Field(ge=1, le=MAX_MORE)


@router.get("/label")
def show_labelling(request: Request, visitor: ReadingVisitor, study: AskedStudy = "") -> Response:
    """Show the page of labelling with its first tasks. The first film is decoded while the browser loads the page.

    `study`: a study that is labelled out of its turn; the browser asks for it.
    """
    tasks = [] if study else _list_tasks(request, visitor.name, PREPARED_TASKS)
    _prepare_films(tasks[:1], parts_of(request))  # the next one would slow the first
    return render_page(
        request,
        "label.html",
        visitor,
        definitions=load_definitions(),
        skip_reasons=SKIP_REASONS,
        session=DEFAULT_SESSION,
        tasks=dump_page_data({"tasks": [_describe_task(task) for task in tasks]}),
        first_film=next((film.instance.header.sop_instance_uid for task in tasks for film in task.films), ""),
    )


def prepare_first_film(request: Request, reader: str) -> None:
    """Begin to decode the film that a reader who logs in sees first."""
    _prepare_films(_list_tasks(request, reader, 1), parts_of(request))


@router.get("/label/tasks")
def list_tasks(request: Request, visitor: ReadingVisitor, limit: Annotated[int, Query(ge=1, le=MAX_TASKS)] = 4) -> dict[str, Any]:
    """Return the next tasks, the number of studies that remain and of those read in this session."""
    parts = parts_of(request)
    tasks = _list_tasks(request, visitor.name, limit)
    _prepare_films(tasks[:PREPARED_TASKS], parts)
    with parts.catalog.read() as tx:
        remaining = tx.readings.count_open_requests(visitor.name)
        done = tx.readings.count_readings(visitor.name, hours=SESSION_HOURS)
    return {"tasks": [_describe_task(task) for task in tasks], "remaining": remaining, "done": done}


@router.get("/label/task")
def find_task(request: Request, visitor: ReadingVisitor, study: Study) -> dict[str, Any]:
    """Return the task of one study."""
    parts = parts_of(request)
    wanted = parts.settings
    return _describe_task(
        labelling.find_task(study, reader=visitor.name, catalog=parts.catalog, chest=wanted.chest, policy=wanted.readings)
    )


@router.put("/label/draft")
def save_draft(request: Request, visitor: ReadingVisitor, study: Study, payload: StatementPayload) -> dict[str, str]:
    """Keep what the reader has said so far."""
    labelling.save_draft(payload.to_draft(study, visitor.name), catalog=parts_of(request).catalog)
    return {"status": "kept"}


@router.post("/label/reading")
def state_reading(request: Request, visitor: ReadingVisitor, study: Study, payload: ReadingPayload) -> dict[str, Any]:
    """Store the labels, then reveal the model's result."""
    parts = parts_of(request)
    stated = labelling.state_reading(
        payload.to_draft(study, visitor.name),
        idempotency_key=payload.key,
        rest_absent=payload.rest_absent,
        catalog=parts.catalog,
        report=parts.settings.report,
        policy=parts.settings.readings,
    )
    return _describe_reveal(stated)


@router.post("/label/skip")
def skip_study(request: Request, visitor: ReadingVisitor, study: Study, payload: SkipPayload) -> dict[str, str]:
    """Skip a study with a reason."""
    parts = parts_of(request)
    labelling.skip_study(
        study,
        reader=visitor.name,
        reason=payload.reason,
        idempotency_key=payload.key,
        catalog=parts.catalog,
        policy=parts.settings.readings,
    )
    return {"status": "skipped"}


@router.get("/label/reveal")
def reveal_result(request: Request, visitor: ReadingVisitor, study: Study) -> dict[str, Any]:
    """Return the model's result on a study that the reader has labelled."""
    parts = parts_of(request)
    wanted = parts.settings
    return _describe_reveal(
        labelling.reveal_result(study, reader=visitor.name, catalog=parts.catalog, report=wanted.report, policy=wanted.readings)
    )


@router.post("/label/more")
def ask_for_more(request: Request, visitor: ReadingVisitor, payload: MorePayload) -> dict[str, int]:
    """Put more studies on the worklist."""
    parts = parts_of(request)
    return {"added": len(worklist.make_worklist(count=payload.count, catalog=parts.catalog, policy=parts.settings.worklist))}


@router.get("/films")
def show_film(request: Request, visitor: AnyVisitor, background: BackgroundTasks, instance: Study) -> Response:
    """Return a film's stored values, see `film_bytes.encode_film`."""
    parts = parts_of(request)
    with parts.catalog.read() as tx:
        stored = tx.studies.find_instance(instance)
    if stored is None or not stored.header.has_pixels:
        raise HTTPException(404, "there is no film of this UID")
    film = parts.films.read(stored)
    audit_later(AuditEvent("view", "done", instance, "film", visitor.name), background, parts)
    headers = {"Content-Encoding": "gzip", "X-Film": film.description}
    return Response(film.content, media_type="application/octet-stream", headers=headers)


@cache
def load_definitions() -> Mapping[str, Mapping[str, str]]:
    """Return finding -> its key, and its card: what counts, and what does not."""
    return tomllib.loads(DEFINITIONS_FILE.read_text(encoding="utf-8"))


def _list_tasks(request: Request, reader: str, limit: int) -> list[LabellingTask]:
    parts = parts_of(request)
    wanted = parts.settings
    return labelling.list_tasks(reader=reader, limit=limit, catalog=parts.catalog, chest=wanted.chest, policy=wanted.readings)


def _prepare_films(tasks: Sequence[LabellingTask], parts: DeskParts) -> None:
    parts.films.prepare([film.instance for task in tasks for film in task.films[:1]])


def _describe_task(task: LabellingTask) -> dict[str, Any]:
    return {
        "study": task.study_instance_uid,
        "films": describe_films(task.films),
        "draft": {"states": task.draft.states, "points": task.draft.points, "comment": task.draft.comment},
        "is_stated": task.is_stated,
    }


def describe_films(films: Sequence[DeskFilm]) -> list[dict[str, Any]]:
    """Return what the viewer needs of each film. Nothing of it names the patient."""
    return [
        {
            "instance": film.instance.header.sop_instance_uid,
            "view": _name_view(film.instance.header),
            "date": film.study_date,
            "patient": _describe_patient(film.instance.header),
            "is_prior": film.is_prior,
        }
        for film in films
    ]


def _describe_patient(header: Header) -> str:
    """Return sex and age, as "F 58 y": a film is judged by them, and they name nobody."""
    age = header.patient_age.strip()
    stated = f"{int(age[:-1])} {age[-1].lower()}" if age[:-1].isascii() and age[:-1].isdigit() else ""
    return " ".join(filter(None, (header.patient_sex.strip(), stated)))


def _name_view(header: Header) -> str:
    return header.view_position.upper().strip() or header.view_code_meaning or "view not stated"


def _describe_reveal(reveal: Reveal) -> dict[str, Any]:
    statement = reveal.statement
    return {
        "study": reveal.study_instance_uid,
        "words": labelling.describe_states(reveal.states),
        "states": reveal.states,
        "new_labels": reveal.new_labels,
        "is_withheld": reveal.is_withheld,
        "reason": reveal.request.reason if reveal.request else "",
        "version": " ".join(filter(None, (statement.version_line, statement.notice))) if statement else "",
        "summary": statement.summary if statement else (),
        "findings": [
            {"finding": each.finding, "words": each.name, "told": each.sentence, "decision": each.decision}
            for each in (statement.findings if statement else ())
        ],
    }


def dump_page_data(values: Mapping[str, Any]) -> str:
    """Return JSON for a `data-` attribute of a page."""
    return json.dumps(values, separators=(",", ":"))
