"""The configuration file as text: reading, the line number of a key, and errors of one line."""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapters.config.renamed_keys import RENAMED_KEYS, RENAMED_SECTIONS, RENAMED_VALUES, describe_renamed_key
from pipeline.errors import ConfigurationError

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic_core import ErrorDetails

SECRET_KEYS = frozenset({"catalog.url"})
"""Keys whose value is never part of an error text."""
MAX_SHOWN_CHARACTERS = 60
OWN_VARIABLES = frozenset({"RADCLIPD_CONFIG", "RADCLIPD_LISTEN_FDS", "RADCLIPD_REQUIRE_PEERS"})
"""Variables that set no key: the path of the file, sockets handed to a child, and whether tests may skip."""
TEST_PREFIX = "RADCLIPD_TEST_"
"""Beginning of the other variables of the tests."""
CONTAINER_VARIABLES = re.compile(
    r"RADCLIPD_(\w+_)?(SERVICE_HOST=.*|SERVICE_PORT(_\w+)?=.*|PORT(_\d+_\w+)?=\w+://.*|PORT_\d+_[A-Z]+_(PROTO|PORT|ADDR)=.*)",
    re.DOTALL,
)
"""Variables, with their values, that Kubernetes and Docker set in a container beside a service called radclipd, or radclipd-..."""
REFERENCE = "the reference file radclipd.toml lists every key with its default"


@dataclass(frozen=True, slots=True)
class ConfigOrigin:
    """Sources of the values: the file with its text, and the naming of environment variables."""

    path: Path
    text: str
    prefix: str
    delimiter: str

    def environment_variable(self, dotted: str) -> str | None:
        """Return the environment variable that sets the key, or None."""
        wanted = self.name_variable(dotted)
        return next((name for name in os.environ if name.upper() == wanted), None)

    def name_variable(self, dotted: str) -> str:
        """Return the name of the environment variable for a key or a section."""
        return (self.prefix + dotted.replace(".", self.delimiter)).upper()

    def location(self, dotted: str) -> str:
        """Return the place where the key is set: the environment variable, or file and line."""
        if variable := self.environment_variable(dotted):
            return f"environment variable {variable}"
        line = line_of(self.text, dotted)
        return f"{self.path}, line {line}" if line else str(self.path)


def line_of(text: str, dotted: str) -> int | None:
    """Return the number of the line that sets a dotted key or opens a table, counted from 1; None if there is none."""
    table = ""
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[+\s*([^\]]+?)\s*\]", line):
            table = header[1]
            if table == dotted:
                return number
        elif key := re.match(r"\s*([A-Za-z0-9_.-]+)\s*=", line):
            found = f"{table}.{key[1]}" if table else key[1]
            if found == dotted or found.startswith(f"{dotted}."):
                return number
    return None


def read_text(path: Path) -> str:
    """Return the file's text. ConfigurationError if it cannot be read."""
    try:
        return path.read_text("utf-8-sig")  # editors of Windows write a byte order mark
    except FileNotFoundError as error:
        raise ConfigurationError(f"{path}: no such file", hint="name the file with --config PATH or RADCLIPD_CONFIG") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path}: not UTF-8 text", hint="save the file as UTF-8") from error
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}", hint="the user that runs radclipd must be able to read it") from error


def parse(origin: ConfigOrigin) -> dict[str, Any]:
    """Return the file's tables. ConfigurationError with line and column if the text is not TOML."""
    try:
        return tomllib.loads(origin.text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(
            f"{origin.path}: not valid TOML: {error}", hint='a line is `key = value`, text is in "quotes", a table is `[name]`'
        ) from error


def refuse_unknown_variables(origin: ConfigOrigin, sections: Sequence[str], keys: Iterable[str]) -> None:
    """Refuse variables that pydantic-settings would ignore: RADCLIPD_LISTENR__PORT, RADCLIPD_LISTENER_PORT, RADCLIPD_PORT."""
    for name, value in os.environ.items():
        if not name.upper().startswith(origin.prefix) or name.upper() in OWN_VARIABLES or name.upper().startswith(TEST_PREFIX):
            continue
        if CONTAINER_VARIABLES.fullmatch(f"{name}={value}"):
            continue
        section, delimiter, key = (part.lower() for part in name.upper().removeprefix(origin.prefix).partition(origin.delimiter))
        if section in RENAMED_SECTIONS:
            raise _translate_renamed_variable(name, section, key, origin)
        if section in sections:  # its keys are pydantic's to refuse
            continue
        if delimiter:
            near = _find_nearest(section, sections)
            meant = f" (did you mean {origin.name_variable(near)}{origin.delimiter}...?)" if near else ""
            raise ConfigurationError(
                f"environment variable {name}: there is no section [{section}]{meant}",
                hint=f"rename or unset it; the sections are {', '.join(sections)}",
            )
        near_key = _find_variable_key(section, list(keys))
        meant = f" (did you mean {origin.name_variable(near_key)}?)" if near_key else ""
        raise ConfigurationError(
            f"environment variable {name} sets no key{meant}",
            hint=f"rename or unset it; two underscores part section and key, as in {origin.name_variable('listener.port')}",
        )


def _find_variable_key(written: str, keys: Sequence[str]) -> str | None:
    """Return the key that a variable without the delimiter means: LISTENER_PORT, PORT or LISTENERPORT for listener.port."""
    spelt = {dotted.replace(".", "").replace("_", ""): dotted for dotted in keys}
    bare = {dotted.partition(".")[2].replace("_", ""): dotted for dotted in reversed(keys)}
    word = written.replace("_", "").replace(".", "")
    if word in bare and word not in spelt:
        return bare[word]
    near = _find_nearest(word, spelt)
    return spelt[near] if near else None


def _translate_renamed_variable(name: str, section: str, key: str, origin: ConfigOrigin) -> ConfigurationError:
    """Return the error for a variable of a renamed section."""
    dotted = f"{section}.{key}" if f"{section}.{key}" in RENAMED_KEYS else section
    new = RENAMED_KEYS.get(dotted) or RENAMED_SECTIONS[section]
    return ConfigurationError(
        f"environment variable {name}: {describe_renamed_key(dotted)}", hint=f"rename it to {origin.name_variable(new)}"
    )


def secret_path(name: str, key: str) -> Path:
    """Return the path of a secret file: an absolute path, or the bare name of a systemd credential. ConfigurationError."""
    folder = os.environ.get("CREDENTIALS_DIRECTORY", "")
    path = Path(name)
    if not path.is_absolute() and not folder:
        raise ConfigurationError(
            f"{key} = {name!r} is a systemd credential, but this process has no credentials",
            hint=f"run it from a unit with LoadCredential={name}:PATH, or write an absolute path",
        )
    return Path(folder) / path  # an absolute path replaces the folder


def read_secret(name: str, key: str, origin: ConfigOrigin) -> str:
    """Return the content of a secret file, stripped: an absolute path, or the bare name of a systemd credential."""
    path = secret_path(name, f"{origin.location(key)}: {key}")
    try:
        secret = path.read_text("utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigurationError(
            f"{origin.location(key)}: {key} = {name!r}: cannot read {path}: {reason}",
            hint="the user that runs radclipd must be able to read it, and nobody else",
        ) from error
    if not secret or not secret.isprintable():
        raise ConfigurationError(
            f"{origin.location(key)}: {key} = {name!r}: {path} holds {'more than one line' if secret else 'nothing'}",
            hint="the file holds the secret on one line, and nothing else",
        )
    return secret


def translate_validation_error(error: ValidationError, origin: ConfigOrigin, descriptions: Mapping[str, str]) -> ConfigurationError:
    """Return the error in one line: the first fault in full, of the others the key and, if it was renamed, its new name."""
    faults = [fault for one in error.errors(include_url=False) for fault in _split_renamed_section(one)]
    message, hint = _explain_fault(faults[0], origin, descriptions)
    others = list(dict.fromkeys(_name_fault(fault) for fault in faults[1:]))
    if others:
        message += f" (and {len(others)} more: {', '.join(others)})"
    return ConfigurationError(message, hint=hint)


def _split_renamed_section(fault: ErrorDetails) -> list[ErrorDetails]:
    """Return a fault for each key of a renamed section that has another name in the new one; otherwise the fault itself."""
    section, content = _join_key(fault), fault["input"]
    if section not in RENAMED_SECTIONS or not isinstance(content, dict):
        return [fault]
    keys = [key for key in content if f"{section}.{key}" in RENAMED_KEYS]
    return [{**fault, "loc": (section, key), "input": content[key]} for key in keys] or [fault]


def _join_key(fault: ErrorDetails) -> str:
    return ".".join(str(part) for part in fault["loc"][:2])


def _name_fault(fault: ErrorDetails) -> str:
    dotted = _join_key(fault)
    return _describe_renamed(dotted, fault["input"]) or dotted


def _describe_renamed(dotted: str, value: Any) -> str:
    """Say what became of an old key or an old value; "" for any other fault."""
    if isinstance(value, str) and (new := RENAMED_VALUES.get((dotted, value))):
        return f'{dotted} = "{value}" is now "{new}"'
    return describe_renamed_key(dotted)


def _explain_fault(fault: ErrorDetails, origin: ConfigOrigin, descriptions: Mapping[str, str]) -> tuple[str, str]:
    """Return message and hint of one fault."""
    dotted = _join_key(fault)
    location = origin.location(dotted)
    if renamed := _describe_renamed(dotted, fault["input"]):
        return f"{location}: {renamed}", _suggest_replacement(dotted, origin, descriptions)
    if fault["type"] == "extra_forbidden":
        return _explain_unknown_key(dotted, location, descriptions, is_table=isinstance(fault["input"], dict))
    if dotted not in descriptions:  # a section's name with a value that is not a table
        return f"{location}: {dotted} is a table, not a value", f"write [{dotted}] on a line of its own and its keys below"
    reason = fault["msg"].removeprefix("Value error, ").replace("Input should", "should").replace("Tuple should", "should")
    return f"{location}: {dotted}{_format_value(dotted, fault['input'])}: {reason}", f"{dotted}: {descriptions[dotted]}"


def _suggest_replacement(dotted: str, origin: ConfigOrigin, descriptions: Mapping[str, str]) -> str:
    """Return the hint for an old section, key or value."""
    if dotted in RENAMED_SECTIONS:
        return f"write [{RENAMED_SECTIONS[dotted]}] instead; {REFERENCE}"
    new, variable = RENAMED_KEYS.get(dotted, dotted), origin.environment_variable(dotted)
    if new is None:
        return f"unset {variable}" if variable else f"remove it; {REFERENCE}"
    if variable and new != dotted:
        return f"rename it to {origin.name_variable(new)}"
    return f"{new}: {descriptions[new]}"


def _format_value(dotted: str, value: Any) -> str:
    if dotted in SECRET_KEYS:
        return ""
    text = repr(value)
    return f" = {text if len(text) <= MAX_SHOWN_CHARACTERS else text[:MAX_SHOWN_CHARACTERS] + '...'}"


def _explain_unknown_key(dotted: str, location: str, descriptions: Mapping[str, str], *, is_table: bool) -> tuple[str, str]:
    """Return message and hint for a key or a section that does not exist."""
    if is_table:
        sections = list(dict.fromkeys(key.partition(".")[0] for key in descriptions))
        nearest = _find_nearest(dotted, sections)
        name, near = f"[{dotted}] is not a section", f"[{nearest}]" if nearest else ""
    else:
        section, _, key = dotted.rpartition(".")
        name, near = f"{dotted} is not a key", _find_nearest_key(section, key, descriptions) or ""
    meant = f" (did you mean {near}?)" if near else ""
    return f"{location}: {name}{meant}", f"{f'write {near} instead' if near else 'remove it'}; {REFERENCE}"


def _find_nearest_key(section: str, key: str, known_keys: Iterable[str]) -> str | None:
    """Return the nearest key: the same name in another section, else a similar name in this section, else in any."""
    known = list(known_keys)
    own = {dotted.partition(".")[2]: dotted for dotted in known if dotted.startswith(f"{section}.")}
    every = {dotted.partition(".")[2]: dotted for dotted in reversed(known)}
    if key in every:
        return every[key]
    for keys in (own, every):
        if near := _find_nearest(key, keys):
            return keys[near]
    return None


def _find_nearest(word: str, known: Iterable[str]) -> str | None:
    return next(iter(difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)), None)
