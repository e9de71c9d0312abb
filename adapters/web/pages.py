"""Pages: Jinja2 templates with escaping on, without a line of script in them."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from functools import cache
from math import inf
from pathlib import Path
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from adapters.web.access import Visitor
from pipeline.domain import FINDINGS

FOLDER = Path(__file__).parent
HASH_LENGTH = 12
DA_LENGTH = 8


def render_page(request: Request, template: str, visitor: Visitor | None, *, status: int = 200, **values: Any) -> HTMLResponse:
    """Return the page of a template. `visitor`: None on pages that need no log-in."""
    values |= {"visitor": visitor, "path": request.url.path, "findings": FINDINGS, "status": status}
    text = _build_environment().get_template(template).render(values)
    return HTMLResponse(text, status_code=status)


@cache
def _build_environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(FOLDER / "templates"), autoescape=select_autoescape(), undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= {"words": finding_words, "moment": format_moment, "day": format_day, "percent": format_percent}
    environment.filters |= {"age": format_age}
    environment.globals["static"] = static_address
    return environment


@cache
def static_address(name: str) -> str:
    """Return the address of a static file; it changes with the content, so that a browser never keeps an old one."""
    digest = hashlib.sha256((FOLDER / "static" / name).read_bytes()).hexdigest()[:HASH_LENGTH]
    return f"/static/{name}?{digest}"


def finding_words(finding: str) -> str:
    """Return a finding as people write it: Pleural_Thickening -> Pleural thickening."""
    return finding.replace("_", " ").capitalize()


def format_moment(moment: datetime | str | None) -> str:
    """Return a time in UTC, to the second."""
    if moment in (None, ""):
        return ""
    parsed = datetime.fromisoformat(moment) if isinstance(moment, str) else moment
    assert parsed is not None
    return f"{parsed.astimezone(UTC) if parsed.tzinfo else parsed:%Y-%m-%d %H:%M:%S}"


def format_day(date: str) -> str:
    """Return a DICOM date (VR DA) as 2026-01-31; any other text as it is."""
    return f"{date[:4]}-{date[4:6]}-{date[6:]}" if len(date) == DA_LENGTH and date.isdigit() else date


def format_percent(share: float) -> str:
    """Return a share as per cent, with a decimal below ten."""
    return f"{100 * share:.1f} %" if share < 0.0995 else f"{100 * share:.0f} %"


def format_age(seconds: float | None) -> str:
    """Return a time span in its largest whole unit: 40 s, 12 min, 5 h, 3 d; "" for None."""
    if seconds is None:
        return ""
    for limit, unit, name in ((120.0, 1.0, "s"), (7200.0, 60.0, "min"), (172_800.0, 3600.0, "h"), (inf, 86_400.0, "d")):
        if seconds < limit:
            return f"{max(seconds, 0.0) / unit:.0f} {name}"
    raise ValueError("an infinite age")
