"""`python -m tests.names`: the naming rules of CONTRIBUTING.md, checked over the product code. `make check` runs it.

Refused are: a private function of one word, a class named by one participle or gerund, a class name or a module name that stands
for two things. An exception is a line in one of the tables below, with its reason.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("pipeline", "adapters", "models", "migrations")

ONE_WORD_FUNCTIONS: dict[str, str] = {}
"""`path:function` -> reason."""

PARTICIPLE_CLASSES = {
    "Patient": "DICOM's noun (PS3.3 C.7.1)",
    "Statement": "a noun: what a reader says of one finding",
    "Document": "a noun: an SR or KOS",
}
"""Class -> reason. Words that end like a participle and are the field's own nouns."""

DOUBLED_CLASSES: dict[str, str] = {}
"""Class -> reason."""

DOUBLED_MODULES: dict[str, str] = {}
"""`room:module` -> reason."""

PARTICIPLE = re.compile(r"[A-Z][a-z]*(ed|ing|en|ent|ept|elt|own|ade|one|old|ound|eft|ost|ought|aught)")
ROOM_MODULES_APART = ("__init__", "__main__")


def main() -> int:
    """Print a line for each name that is refused; return the exit code."""
    refused = sorted({*one_word_functions(), *participle_classes(), *doubled_classes(), *doubled_modules(), *unused_exceptions()})
    for line in refused:
        print(line)  # noqa: T201 - a command's output
    return 1 if refused else 0


def one_word_functions() -> Iterator[str]:
    """Private functions say verb and object. Properties are nouns and may be one word."""
    for path, tree in _modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and _is_private(node.name) and not _is_property(node):
                place = f"{path}:{node.name}"
                if "_" not in node.name.strip("_") and place not in ONE_WORD_FUNCTIONS:
                    yield f"{path}:{node.lineno}: private function of one word: {node.name} (say verb and object)"


def participle_classes() -> Iterator[str]:
    """A class is named by a noun."""
    for path, node in _classes():
        name = node.name.lstrip("_")
        if PARTICIPLE.fullmatch(name) and name not in PARTICIPLE_CLASSES:
            yield f"{path}:{node.lineno}: class named by one participle: {node.name} (name it by a noun)"


def doubled_classes() -> Iterator[str]:
    """A class name stands for one thing in the whole of the product code."""
    places = defaultdict(list)
    for path, node in _classes():
        places[node.name.lstrip("_")].append(f"{path}:{node.lineno}")
    for name, found in places.items():
        if len(found) > 1 and name not in DOUBLED_CLASSES:
            yield f"{found[-1]}: class {name} stands at {', '.join(found[:-1])} too (qualify the name)"


def doubled_modules() -> Iterator[str]:
    """A module name stands once in a room: a folder below `adapters`, all of `models`, all of `pipeline` but its ports."""
    places = defaultdict(list)
    for path, _ in _modules():
        if path.stem not in ROOM_MODULES_APART:
            places[_room(path), path.stem].append(str(path))
    for (room, name), found in places.items():
        if len(found) > 1 and f"{room}:{name}" not in DOUBLED_MODULES:
            yield f"{found[-1]}: module {name} stands at {', '.join(found[:-1])} too (qualify the name)"


def unused_exceptions() -> Iterator[str]:
    """An exception without its name in the code is out of date."""
    functions = {f"{path}:{node.name}" for path, tree in _modules() for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    classes = {node.name.lstrip("_") for _, node in _classes()}
    modules = {f"{_room(path)}:{path.stem}" for path, _ in _modules()}
    known = functions | classes | modules
    for table in (ONE_WORD_FUNCTIONS, PARTICIPLE_CLASSES, DOUBLED_CLASSES, DOUBLED_MODULES):
        for name in table:
            if name not in known:
                yield f"tests/names.py: exception of {name}, which no longer exists (delete it)"


def _modules() -> Iterator[tuple[Path, ast.Module]]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            yield path.relative_to(ROOT), ast.parse(path.read_text(encoding="utf-8"))


def _classes() -> Iterator[tuple[Path, ast.ClassDef]]:
    for path, tree in _modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                yield path, node


def _room(path: Path) -> str:
    parts = path.parts
    if parts[:2] == ("pipeline", "ports"):
        return "pipeline/ports"
    return "/".join(parts[:2]) if parts[0] == "adapters" else parts[0]


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def _is_property(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    names = {part.id if isinstance(part, ast.Name) else getattr(part, "attr", "") for part in node.decorator_list}
    return bool(names & {"property", "cached_property"})


if __name__ == "__main__":
    sys.exit(main())
