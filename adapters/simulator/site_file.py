"""A site described in a file, TOML or JSON: fields of `sites.Site`; absent ones are those of the site that it builds on."""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from adapters.config.file import line_of
from adapters.simulator.sites import SITES, Site
from pipeline.domain import FINDINGS
from pipeline.errors import PermanentError

SUFFIXES = (".toml", ".json")
NAME, BASED_ON = "name", "based_on"
DEFAULT_BASE = "north"
NAME_PATTERN = re.compile(r"[a-z][a-z0-9-]{0,19}")
"""Names stand in patient IDs and names of the simulated studies."""
SHARE = (0.0, 1.0)
LIMITS: Mapping[str, tuple[float, float]] = {
    "equipment.dx_bits": (8, 16),
    "equipment.cr_bits": (8, 16),
    "equipment.cr_share": SHARE,
    "equipment.poor_share": SHARE,
    "equipment.sparse_share": SHARE,
    "equipment.inverted_share": SHARE,
    "ap_share": SHARE,
    "age_offset": (-40, 40),
    "scatter": (0, 2),
    "portable_scatter": (0, 2),
    "noise": (0, 0.2),
    "portable_noise": (0, 0.2),
    "blur": (0, 1),
    "edge_strength": (0, 10),
    "edge_scale": (0.05, 5),
    "contrast": (0.05, 10),
    "black": (0, 5),
    "white": (0.6, 2),
    "zoom": (0.5, 2),
    "portable_zoom": (0.5, 2),
    "collimation_share": SHARE,
    "shutter": (0, 8),
    "grid_lines": (0, 0.2),
    "cut_off": (0, 0.5),
    "marker.height": (0.3, 6),
    "marker.brightness": SHARE,
    "marker_share": SHARE,
    "lead_share": SHARE,
    "line_share": SHARE,
    "drain_share": SHARE,
    "prevalence_factors": (0.01, 30),
}
"""Lowest and highest value of each number: beyond them films are no chest radiographs, or cannot be computed."""
EMPTIED_ATTRIBUTES = frozenset(name for site in SITES.values() for name in site.equipment.empty_attributes)
"""Attributes that a header may have without a value."""
MAX_TEXT = 60
"""Maximum characters of a text, within those of the DICOM VR LO."""


def choose_site(wanted: str) -> Site:
    """Return the built-in site of a name, or the site described in a file. PermanentError where there is neither."""
    if wanted in SITES:
        return SITES[wanted]
    if Path(wanted).suffix.lower() in SUFFIXES:
        return read_site(Path(wanted))
    raise PermanentError(
        f"no phantom hospital is called {wanted!r}",
        hint=f"choose from {', '.join(sorted(SITES))}, or give a file that describes one ({', '.join(SUFFIXES)})",
    )


def read_site(path: Path) -> Site:
    """Return the site described in a file. PermanentError, naming file, line and key, for whatever does not describe one."""
    text = _read_text(path)
    found = _SiteDescription(path, text, _parse_text(path, text))
    site = found.validate_types(found.complete())
    found.check_values(site)
    return site


class _SiteDescription:
    """The content of a file, with errors that name the place."""

    def __init__(self, path: Path, text: str, content: dict[str, Any]) -> None:
        self._path, self._text, self._content = path, text, content
        self._base = SITES[DEFAULT_BASE]

    def complete(self) -> dict[str, Any]:
        """Return the fields of a site: those of the file over those of the site that it builds on."""
        given = dict(self._content)
        name, base = given.get(NAME), given.pop(BASED_ON, DEFAULT_BASE)
        if not isinstance(name, str) or not NAME_PATTERN.fullmatch(name) or name in SITES:
            raise self._build_error(
                NAME,
                f"{NAME} = {name!r}" if NAME in given else f"the key {NAME} is absent",
                f'write {NAME} = "harbour": small letters, digits and -, at most 20, and none of {", ".join(sorted(SITES))}',
            )
        if not isinstance(base, str) or base not in SITES:
            raise self._build_error(BASED_ON, f"{BASED_ON} = {base!r}", f"choose from {', '.join(sorted(SITES))}")
        self._base = SITES[base]
        whole = asdict(self._base)
        whole["equipment"]["institution"] = f"PHANTOM {name.upper()} HOSPITAL"
        for key, value in given.items():
            known = whole.get(key)
            whole[key] = known | value if isinstance(known, dict) and isinstance(value, dict) else value
        return whole

    def validate_types(self, whole: Mapping[str, Any]) -> Site:
        """Return the site of these fields; unknown keys and wrong types are errors."""
        try:
            return _site_adapter().validate_json(json.dumps(whole, default=str), strict=True)
        except ValidationError as error:
            raise self._explain_faults(error.errors(include_url=False)) from None

    def check_values(self, site: Site) -> None:
        """Refuse numbers out of bounds, reversed ranges, long texts and unknown findings."""
        for dotted, value in _list_values(asdict(site)):
            self._check_value(dotted, value)
        if site.equipment.poor_share + site.equipment.sparse_share > 1:
            reason = "poor_share and sparse_share of [equipment] exceed 1 together"
            raise self._build_error("equipment.poor_share", reason, "lower one")

    def _check_value(self, dotted: str, value: Any) -> None:
        if isinstance(value, str):
            if len(value) > MAX_TEXT:
                raise self._build_error(dotted, f"{dotted} has {len(value)} characters", f"write at most {MAX_TEXT}")
        elif dotted == "equipment.empty_attributes":
            if unknown := sorted({*value} - EMPTIED_ATTRIBUTES):
                known = ", ".join(sorted(EMPTIED_ATTRIBUTES))
                raise self._build_error(dotted, f"{dotted} names {unknown[0]!r}", f"choose from {known}")
        else:
            self._check_numbers(dotted, value if isinstance(value, tuple) else (value,))

    def _check_numbers(self, dotted: str, numbers: tuple[float, ...]) -> None:
        """Refuse an unknown finding, a number out of its limits, a reversed range, and no number at all."""
        table, _, key = dotted.rpartition(".")
        is_factor, shown = table == "prevalence_factors", _format_value(numbers if len(numbers) != 1 else numbers[0])
        if is_factor and key not in FINDINGS:
            raise self._build_error(dotted, f"{key} is no finding", f"choose from {', '.join(FINDINGS)}")
        if not numbers:
            raise self._build_error(dotted, f"{dotted} = []", "name at least one number, as [12, 14]")
        lowest, highest = LIMITS[table if is_factor else dotted]
        if not all(lowest <= number <= highest for number in numbers):
            raise self._build_error(dotted, f"{dotted} = {shown}", f"values from {lowest:g} to {highest:g} are possible")
        if not dotted.endswith("_bits") and numbers[0] > numbers[-1]:
            raise self._build_error(dotted, f"{dotted} = {shown}", "write the lowest value first, then the highest")

    def _explain_faults(self, faults: Sequence[ErrorDetails]) -> PermanentError:
        """Return the error of the first fault, with the keys of the others."""
        dotted = [_join_key(fault) for fault in faults]
        others = ", ".join(dict.fromkeys(key for key in dotted[1:] if key != dotted[0]))
        more = f" (and also: {others})" if others else ""
        known = dict(_list_values(asdict(self._base)))
        if faults[0]["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
            keys = [*known, BASED_ON, "prevalence_factors"]
            near = next(iter(difflib.get_close_matches(dotted[0], keys, n=1)), None)
            hint = f"write {near} instead" if near else f"remove it; the keys are {', '.join(keys)}"
            return self._build_error(dotted[0], f"{dotted[0]} is not a key of a site{more}", hint)
        reason = faults[0]["msg"].replace("Input should", "should").replace("Tuple should", "should")
        example = known.get(dotted[0])
        hint = f"as at the site {self._base.name}: {dotted[0]} = {_format_value(example)}"
        if example is None:
            hint = "write a number" if dotted[0].startswith("prevalence_factors.") else f"write a table, as [{dotted[0]}] in TOML"
        return self._build_error(dotted[0], f"{dotted[0]}: {reason}{more}", hint)

    def _build_error(self, dotted: str, reason: str, hint: str) -> PermanentError:
        line = line_of(self._text, dotted)
        return PermanentError(f"{self._path}{f', line {line}' if line else ''}: {reason}", hint=hint)


@cache
def _site_adapter() -> TypeAdapter[Site]:
    return TypeAdapter(Site)


def _read_text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise PermanentError(f"{path}: not UTF-8 text", hint="save the file as UTF-8") from error
    except OSError as error:
        raise PermanentError(f"{path}: {error.strerror}", hint="name a readable file that describes a site") from error


def _parse_text(path: Path, text: str) -> dict[str, Any]:
    try:
        content = json.loads(text) if path.suffix.lower() == ".json" else tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        kind = path.suffix.lower().removeprefix(".").upper()
        raise PermanentError(f"{path}: not valid {kind}: {error}", hint="see the example in the guide of the experiment") from error
    if not isinstance(content, dict):
        raise PermanentError(f"{path}: no JSON object", hint='write {"name": "harbour", ...}')
    return content


def _list_values(fields: Mapping[str, Any], table: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted keys and values."""
    for key, value in fields.items():
        if isinstance(value, Mapping):
            yield from _list_values(value, f"{table}{key}.")
        else:
            yield f"{table}{key}", value


def _join_key(fault: ErrorDetails) -> str:
    return ".".join(part for part in fault["loc"] if isinstance(part, str))


def _format_value(value: Any) -> str:
    return json.dumps(value, default=str)
