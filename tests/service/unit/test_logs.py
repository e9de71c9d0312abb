"""Log lines for journald, programs and people; none identifies the patient."""

from __future__ import annotations

import ast
import io
import json
import logging
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
import structlog

import adapters
import pipeline
from adapters.config.sections import LogConfig
from adapters.service import logs
from pipeline.domain import Header
from tests.builders.hospital_in_memory import Hospital

IDENTITY = "DOE^JANE"


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    handlers, level = logging.root.handlers[:], logging.root.level
    show, hook, raising, crash = warnings.showwarning, threading.excepthook, logging.raiseExceptions, sys.excepthook
    yield
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)
    warnings.showwarning, threading.excepthook, logging.raiseExceptions, sys.excepthook = show, hook, raising, crash
    structlog.reset_defaults()


def configured(form: Literal["auto", "journald", "json", "console"] = "json", *, role: str = "") -> io.StringIO:
    stream = io.StringIO()
    logs.configure(LogConfig(format=form), role=role, stream=stream)
    return stream


def records(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_json_line_has_time_level_logger_role_and_event() -> None:
    stream = configured(role="listener")
    structlog.get_logger("radclipd.receive").info("instance stored", study="1.2.3", bytes=5)
    (record,) = records(stream)
    assert list(record)[:5] == ["timestamp", "level", "logger", "role", "event"]
    assert record["level"] == "info"
    assert record["logger"] == "radclipd.receive"
    assert record["role"] == "listener"
    assert record["event"] == "instance stored"
    assert record["bytes"] == 5


@pytest.mark.parametrize(("level", "priority"), [("info", 6), ("warning", 4), ("error", 3), ("critical", 2)])
def test_a_journald_line_starts_with_its_priority_and_has_no_time(level: str, priority: int) -> None:
    stream = configured("journald")
    getattr(structlog.get_logger("radclipd.work"), level)("job failed", job=7)
    line = stream.getvalue()
    assert line.startswith(f"<{priority}>{{")
    assert line.count("\n") == 1
    assert "timestamp" not in json.loads(line[3:])


def test_a_traceback_stays_on_its_one_journald_line() -> None:
    stream = configured("journald")
    try:
        raise KeyError("step")
    except KeyError:
        structlog.get_logger("radclipd.work").exception("job failed")
    (line,) = stream.getvalue().splitlines()
    assert line.startswith("<3>")
    assert "KeyError" in json.loads(line[3:])["exception"]


def test_console_lines_are_for_people() -> None:
    stream = configured("console")
    structlog.get_logger("radclipd.work").info("job done", job=7)
    assert "job done" in stream.getvalue()
    assert "job=7" in stream.getvalue()
    assert "{" not in stream.getvalue()


def test_auto_is_journald_only_where_the_stream_is_the_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "log").open("w+") as stream:
        status = os.fstat(stream.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
        logs.configure(LogConfig(), stream=stream)
        structlog.get_logger("radclipd").info("one")
        monkeypatch.setenv("JOURNAL_STREAM", "8:1")
        logs.configure(LogConfig(), stream=stream)
        structlog.get_logger("radclipd").info("two")
        stream.seek(0)
        first, second = stream.read().splitlines()
    assert first.startswith("<6>{")
    assert second.startswith("{")


def test_lines_below_the_level_are_left_out() -> None:
    stream = io.StringIO()
    logs.configure(LogConfig(format="json", level="error"), stream=stream)
    structlog.get_logger("radclipd.work").warning("job slow")
    assert stream.getvalue() == ""


def test_libraries_log_through_the_same_renderer_from_warning_on() -> None:
    stream = io.StringIO()
    logs.configure(LogConfig(format="json", level="debug"), stream=stream)
    logging.getLogger("pynetdicom.acse").info("quiet")
    logging.getLogger("sqlalchemy.engine").debug("quiet")
    logging.getLogger("pynetdicom.acse").warning("association %s", "rejected")
    (record,) = records(stream)
    assert record["event"] == "association rejected"
    assert record["logger"] == "pynetdicom.acse"


PIPELINE = Path(pipeline.__file__).parent
FORMATS: tuple[Literal["json", "journald", "console"], ...] = ("json", "journald", "console")
LEVELS = {"debug", "info", "warning", "error", "critical", "exception"}


@dataclass(frozen=True)
class LoggedEvent:
    """A call of a logger in pipeline: its place, level, event and the keys of its fields."""

    place: str
    level: str
    event: str
    keys: tuple[str, ...]


def pipeline_events() -> list[LoggedEvent]:
    """Every call of a logger in pipeline. AssertionError where its event is not a constant or its fields are not named in place."""
    return [
        read_event(f"{path.name}:{node.lineno}", node)
        for path in sorted(PIPELINE.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id in ("log", "logger", "logging")
        and node.func.attr in LEVELS
    ]


def read_event(place: str, call: ast.Call) -> LoggedEvent:
    assert isinstance(call.func, ast.Attribute)
    (event,) = call.args
    assert isinstance(event, ast.Constant), f"{place}: the event is a constant text; values are fields"
    fields = {keyword.arg: keyword.value for keyword in call.keywords}
    assert set(fields) <= {"extra"}, f"{place}: fields are passed by extra"
    extra = fields.get("extra", ast.Dict(keys=[], values=[]))
    assert isinstance(extra, ast.Dict), f"{place}: the fields are named where the event is logged"
    keys = [key.value for key in extra.keys if isinstance(key, ast.Constant)]
    assert len(keys) == len(extra.keys)
    return LoggedEvent(place, call.func.attr, str(event.value), tuple(str(key) for key in keys))


def test_pipeline_logs_events_with_fields() -> None:
    events = pipeline_events()
    assert len(events) >= 10
    assert {"step failed", "backfill waits", "heartbeat failed"} <= {one.event for one in events}


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("logged", pipeline_events(), ids=lambda one: one.place)
def test_the_fields_of_every_event_of_a_step_reach_every_format(
    logged: LoggedEvent, form: Literal["json", "journald", "console"]
) -> None:
    stream = io.StringIO()
    logs.configure(LogConfig(format=form, level="debug"), stream=stream)
    values = {key: f"value-{number}" for number, key in enumerate(logged.keys)}
    getattr(logging.getLogger("radclipd.step"), logged.level)(logged.event, extra=values)
    (line,) = stream.getvalue().splitlines()
    if form == "console":
        assert logged.event in line
        assert all(f"{key}={value}" in line for key, value in values.items())
        return
    record = json.loads(line[line.index("{") :])
    assert record["event"] == logged.event
    assert {key: record[key] for key in values} == values


def test_no_event_of_a_step_has_a_field_that_names_the_patient() -> None:
    keys = {key for one in pipeline_events() for key in one.keys}
    assert not keys & logs.IDENTITY_KEYS
    assert not {key for key in keys if "patient" in key or "name" in key}


@pytest.mark.parametrize("form", FORMATS)
def test_a_failed_step_is_logged_with_its_job_its_error_and_its_place(form: Literal["json", "journald", "console"]) -> None:
    hospital = Hospital()
    hospital.archive.errors = [ValueError(IDENTITY)]
    hospital.receive(hospital.header())
    stream = configured(form)
    hospital.run()
    text = stream.getvalue()
    assert "step failed" in text
    assert "ValueError" in text
    assert "test_logs" not in text
    assert "reports.py" in text, "the place"
    assert IDENTITY not in text
    if form != "console":
        (record,) = [json.loads(line[line.index("{") :]) for line in text.splitlines() if "step failed" in line]
        assert (record["kind"], type(record["job"])) == ("send", int)


def test_the_fields_of_a_library_are_left_out() -> None:
    stream = configured()
    logging.getLogger("pynetdicom.acse").warning("rejected", extra={"dataset_text": IDENTITY})
    assert IDENTITY not in stream.getvalue()


@pytest.mark.parametrize("key", ["patient_name", "PatientID", "header"])
def test_a_field_of_a_step_that_names_the_patient_is_redacted(key: str) -> None:
    stream = configured()
    logging.getLogger("radclipd.step").warning("stored", extra={key: IDENTITY})
    assert IDENTITY not in stream.getvalue()
    assert logs.REDACTED in stream.getvalue()


def test_adapters_log_through_structlog_alone() -> None:
    """A logger of the standard library in adapters would be a second way to pass fields."""
    found = [
        f"{path.name}:{node.lineno}"
        for path in sorted(Path(adapters.__file__).parent.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Assign) and "logging.getLogger" in ast.unparse(node.value)
    ]
    assert found == []


def test_a_library_never_prints_a_data_set() -> None:
    stream = configured()
    logging.getLogger("pynetdicom.service-class").error("Failed\n(0010,0010) PN: %s", IDENTITY)
    logging.getLogger("pynetdicom.service-class").error("(0010, 0010) Patient's Name PN: %s", IDENTITY)
    assert IDENTITY not in stream.getvalue()
    assert [record["event"] for record in records(stream)] == ["Failed", logs.REDACTED]


@pytest.mark.parametrize("key", ["patient_name", "PatientName", "patient-id", "patient_birth_date", "birth_date", "dataset"])
def test_a_key_that_names_the_patient_is_redacted_at_any_depth(key: str) -> None:
    stream = configured()
    structlog.get_logger("radclipd.receive").info("stored", **{key: IDENTITY}, header_of=[{key: IDENTITY}])
    assert IDENTITY not in stream.getvalue()
    assert logs.REDACTED in stream.getvalue()


@pytest.mark.parametrize("form", ["json", "journald", "console"])
def test_an_object_that_carries_the_patient_is_not_printed(form: Literal["json", "journald", "console"]) -> None:
    stream = configured(form)
    header = Header(
        sop_instance_uid="1",
        sop_class_uid="1",
        series_instance_uid="1",
        study_instance_uid="1",
        transfer_syntax_uid="1",
        patient_id=IDENTITY,
    )
    structlog.get_logger("radclipd.receive").info("stored", instance=header, several=[header])
    assert IDENTITY not in stream.getvalue()
    assert "<Header>" in stream.getvalue()


def test_the_values_of_a_failed_statement_are_not_printed() -> None:
    stream = configured()
    failure = RuntimeError(f"insert failed\nDETAIL:  Key ({IDENTITY}) exists.\n[parameters: ('{IDENTITY}',)]")
    structlog.get_logger("radclipd.catalog").error("write failed", error=failure)
    try:
        raise failure
    except RuntimeError:
        structlog.get_logger("radclipd.catalog").exception("write failed")
    assert IDENTITY not in stream.getvalue()
    assert stream.getvalue().count("insert failed") == 2


def test_local_variables_are_not_part_of_a_traceback() -> None:
    stream = configured("console")
    name = IDENTITY
    try:
        raise ValueError(len(name))
    except ValueError:
        structlog.get_logger("radclipd.catalog").exception("write failed")
    assert "ValueError" in stream.getvalue()
    assert IDENTITY not in stream.getvalue()


def test_a_warning_is_logged_without_its_text() -> None:
    stream = configured()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = logs._log_warning
        warnings.warn(f"Invalid value for VR PN: {IDENTITY}", stacklevel=1)
    (record,) = records(stream)
    assert record["category"] == "UserWarning"
    assert IDENTITY not in stream.getvalue()


def test_a_failed_thread_is_logged() -> None:
    stream = configured()
    thread = threading.Thread(target=lambda: [][0], name="reactor")
    thread.start()
    thread.join()
    (record,) = records(stream)
    assert record["event"] == "thread failed"
    assert record["thread"] == "reactor"
    assert "IndexError" in record["exception"]


def test_a_crash_of_the_process_is_one_line_too() -> None:
    script = (
        "from adapters.service import logs; from adapters.config.sections import LogConfig\n"
        "logs.configure(LogConfig(format='journald'))\n"
        f"raise RuntimeError('insert failed\\n[parameters: ({IDENTITY})]')"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, cwd=Path(__file__).resolve().parents[3]
    )
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert line.startswith("<2>")
    assert "RuntimeError: insert failed" in json.loads(line[3:])["exception"]
    assert IDENTITY not in line
