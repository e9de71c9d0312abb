"""Log lines: fields in one renderer, and no patient in any of them.

adapters log through structlog with keywords, pipeline through the standard library with `extra`: the same fields in every format.
Lines of libraries pass the same renderer, without fields.

Formats: `journald` is one JSON object after a `<N>` priority (sd-daemon(3)), without a time, which the journal adds; `json` has its
own time; `console` is for people. `auto` takes journald where standard error is the journal's ($JOURNAL_STREAM, systemd.exec(5)),
console on a terminal, else json.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import threading
import warnings
from collections.abc import Mapping
from datetime import date, time
from enum import Enum
from pathlib import PurePath
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO
from uuid import UUID

import structlog

if TYPE_CHECKING:
    from structlog.typing import EventDict, Processor, WrappedLogger

    from adapters.config.sections import LogConfig

OWN_LOGGERS = "radclipd"
FOREIGN_LEVEL = logging.WARNING
"""Lowest level of libraries: below it pynetdicom prints whole requests."""
FOREIGN_LOGGERS = ("pynetdicom", "pydicom", "highdicom", "sqlalchemy", "alembic", "apscheduler", "PIL")

PRIORITIES = {"critical": 2, "error": 3, "warning": 4, "info": 6, "debug": 7}
"""Level -> syslog severity (RFC 5424 section 6.2.1)."""

REDACTED = "[redacted]"
IDENTITY_KEYS = frozenset(
    {
        "patient",
        "patientname",
        "patientid",
        "patientkey",
        "patientbirthdate",
        "patientbirthtime",
        "patientaddress",
        "patienttelephonenumbers",
        "patientmothersbirthname",
        "birthdate",
        "dateofbirth",
        "issuerofpatientid",
        "otherpatientids",
        "otherpatientnames",
        "otherpatientidssequence",
        "responsibleperson",
        "dataset",
        "header",
    }
)
"""Keys, lower case and without separators, whose value identifies the patient (PS3.3 C.2.2, C.2.3)."""

PLAIN_TYPES = (str, int, float, bool, type(None), date, time, Enum, PurePath, UUID, BaseException)
"""Types whose values are printed; any other object is printed as its type."""

_EXTRA_ADDER = structlog.stdlib.ExtraAdder()
_DATA_ELEMENT = re.compile(r"\([0-9a-fA-F]{4},\s?[0-9a-fA-F]{4}\)")
_STATEMENT_VALUES = re.compile(r"\[parameters: .*|^DETAIL: .*", re.MULTILINE)


def configure(config: LogConfig, *, role: str = "", stream: TextIO | None = None) -> None:
    """Set up all logging of this process. `role` stands on each line; `stream` is standard error unless given."""
    stream = stream if stream is not None else sys.stderr
    form = _resolve_format(config.format, stream)
    level = logging.getLevelNamesMapping()[config.level.upper()]
    shared = _build_shared_processors(role)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[_strip_data_sets, _add_extra_fields, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_build_renderers(form, stream)],
        )
    )
    logging.raiseExceptions = False  # the report of an unwritable line would show its raw arguments
    logging.root.handlers[:] = [handler]
    logging.root.setLevel(FOREIGN_LEVEL)
    logging.getLogger(OWN_LOGGERS).setLevel(level)
    for name in FOREIGN_LOGGERS:
        _configure_library_logger(logging.getLogger(name))
    warnings.showwarning = _log_warning
    threading.excepthook = _log_thread_failure
    sys.excepthook = _log_crash


def _resolve_format(form: str, stream: TextIO) -> str:
    if form != "auto":
        return form
    if _is_journal(stream):
        return "journald"
    return "console" if stream.isatty() else "json"


def _is_journal(stream: TextIO) -> bool:
    """Compare device and inode (systemd.exec(5)): processes that write elsewhere inherit the variable, too."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def _build_shared_processors(role: str) -> list[Processor]:
    def add_role(_logger: WrappedLogger, _method: str, event_dict: EventDict) -> EventDict:
        if role:
            event_dict.setdefault("role", role)
        return event_dict

    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        add_role,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
        redact,
    ]


def _build_renderers(form: str, stream: TextIO) -> list[Processor]:
    """Return the last processors. Tracebacks are plain: richer ones print local variables, and data sets among them."""
    if form == "console":
        return [structlog.dev.ConsoleRenderer(colors=stream.isatty(), exception_formatter=structlog.dev.plain_traceback)]
    if form == "journald":
        return [_drop_timestamp, structlog.processors.JSONRenderer(default=str), _add_priority]
    return [structlog.processors.JSONRenderer(default=str)]


def _configure_library_logger(logger: logging.Logger) -> None:
    """Send a library's lines through our handler, from FOREIGN_LEVEL on."""
    logger.handlers[:] = []
    logger.propagate = True
    logger.setLevel(FOREIGN_LEVEL)


def _drop_timestamp(_logger: WrappedLogger, _method: str, event_dict: EventDict) -> EventDict:
    event_dict.pop("timestamp", None)
    return event_dict


def _add_priority(_logger: WrappedLogger, method: str, rendered: str | bytes | EventDict) -> str:
    level = "error" if method == "exception" else method
    return f"<{PRIORITIES.get(level, PRIORITIES['info'])}>{rendered!s}"


def redact(_logger: WrappedLogger, _method: str, event_dict: EventDict) -> EventDict:
    """Remove values that could identify the patient: named keys, objects that hold headers, values of SQL statements.

    The keys of every line come first.
    """
    first = ("timestamp", "level", "logger", "role", "event")
    ordered = [key for key in first if key in event_dict] + [key for key in event_dict if key not in first]
    return {key: _redact_value(key, event_dict[key]) for key in ordered}


def _redact_value(key: str, value: Any) -> Any:
    if key.startswith("_"):  # a key of ProcessorFormatter
        return value
    if re.sub(r"[^a-z]", "", key.lower()) in IDENTITY_KEYS:
        return REDACTED
    if isinstance(value, Mapping):
        return {str(name): _redact_value(str(name), item) for name, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_redact_value("", item) for item in value]
    if not isinstance(value, PLAIN_TYPES):
        return f"<{type(value).__name__}>"
    if isinstance(value, (str, BaseException)):
        return _STATEMENT_VALUES.sub(REDACTED, str(value))
    return value


def _strip_data_sets(_logger: WrappedLogger, _method: str, event_dict: EventDict) -> EventDict:
    """Keep only the first line of a library, unless it shows a data element: data sets are printed over several lines."""
    first = str(event_dict.get("event", "")).strip().partition("\n")[0]
    event_dict["event"] = REDACTED if _DATA_ELEMENT.search(first) else first
    return event_dict


def _add_extra_fields(logger: WrappedLogger, method: str, event_dict: EventDict) -> EventDict:
    """Add what a step has logged with `extra`: pipeline knows the standard library only. Libraries may put data sets there."""
    if event_dict["_record"].name.partition(".")[0] != OWN_LOGGERS:
        return event_dict
    return _EXTRA_ADDER(logger, method, event_dict)


def _log_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Log a library's warning by category and source line, without its text: pydicom quotes the value in question."""
    structlog.get_logger("radclipd.warnings").warning("library warning", category=category.__name__, place=f"{filename}:{lineno}")


def _log_thread_failure(failure: threading.ExceptHookArgs) -> None:
    if failure.exc_type is SystemExit or failure.exc_value is None:
        return
    name = failure.thread.name if failure.thread else ""
    structlog.get_logger("radclipd.threads").error("thread failed", thread=name, exc_info=failure.exc_value)


def _log_crash(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Log the error that ends the process: a bare traceback would be many unredacted lines in the journal."""
    if issubclass(kind, KeyboardInterrupt):
        return
    structlog.get_logger("radclipd.crash").critical("process failed", exc_info=(kind, error, trace))
