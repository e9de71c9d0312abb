"""The developer documentation names what exists: paths, link targets, and names in the module beside which they stand."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PAGES = ("CONTRIBUTING.md", "deploy/docs/architecture.md", "deploy/docs/glossary.md")
LINKED = sorted(str(path.relative_to(ROOT)) for path in [*ROOT.glob("*.md"), *(ROOT / "deploy").rglob("*.md")])
PACKAGES = ("pipeline", "adapters", "models", "migrations")

ITEM = re.compile(r"^(?:\||\* |\d+\. ).*(?:\n +\S.*)*", re.MULTILINE)
"""A row of a table, or an item of a list with its indented lines."""
SECTION = re.compile(r"^#+ ", re.MULTILINE)
USUAL_MODULE = re.compile(r"^`([^`\n]+)`, unless another module is named", re.MULTILINE)
CONSTANT = re.compile(r"\b[A-Z][A-Z0-9]+(?:_[A-Z0-9]+)*\b")
WORD = re.compile(
    r"CLIP|DATA|DICOM|DIMSE|FILE|JSON|LABEL|LEARN|NAME|PACS|README|REPORT|SCORE|SEND|SIG[A-Z]+|STORE|TOML|UNTRAINED|VERSION|XXH3"
)
"""Capitals that are no constants: abbreviations, signals, job kinds, placeholders."""
CODE_BLOCK = re.compile(r"^ *```.*?^ *```", re.DOTALL | re.MULTILINE)
TERM = re.compile(r"`([^`\n]+)`")
PATH = re.compile(r"\.?[\w-]+(/[\w.-]+)*/?")
CLASS = re.compile(r"[A-Z][a-z0-9]+([A-Z][a-z0-9]*)*(\.\w+)?")
FUNCTION = re.compile(r"([A-Z]\w+\.)?_?[a-z]\w*\(\)")
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)\s]*)?\)")
WIDTH = 140  # columns
EXTERNAL = ("http://", "https://", "mailto:")


def terms(page: str) -> list[str]:
    """Return what stands in backticks outside of code blocks, each once."""
    return sorted(set(TERM.findall(CODE_BLOCK.sub("", (ROOT / page).read_text(encoding="utf-8")))))


@cache
def definitions() -> tuple[frozenset[str], dict[str, frozenset[str]]]:
    """Return every function and module-level name, and class -> names of its fields and methods, those of its bases included."""
    names: set[str] = set()
    members: dict[str, set[str]] = {}
    bases: dict[str, list[str]] = {}
    for path in (path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names |= set(assigned(tree)) | {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                members.setdefault(node.name, set()).update(assigned(node))
                bases.setdefault(node.name, []).extend(base.id for base in node.bases if isinstance(base, ast.Name))
    return frozenset(names), {name: frozenset(inherited(name, members, bases)) for name in members}


def inherited(name: str, members: dict[str, set[str]], bases: dict[str, list[str]]) -> Iterator[str]:
    yield from members.get(name, ())
    for base in bases.get(name, ()):
        if base != name:
            yield from inherited(base, members, bases)


def assigned(node: ast.Module | ast.ClassDef) -> Iterator[str]:
    """Yield the names that a module or class body gives: assignments, functions."""
    for part in node.body:
        if isinstance(part, ast.FunctionDef):
            yield part.name
        elif isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name):
            yield part.target.id
        elif isinstance(part, ast.Assign):
            yield from (target.id for target in part.targets if isinstance(target, ast.Name))


@cache
def names_in(path: Path) -> frozenset[str]:
    """Return the names that a module, or all modules of a folder, define: functions, classes, constants, members of classes."""
    names: set[str] = set()
    for module in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef):
                names |= set(assigned(node))
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                names.add(node.name)
    return frozenset(names)


def is_defined(term: str) -> bool:
    """Say whether a class, a member of a class, a type alias or a function of this name is in the code."""
    names, members = definitions()
    owner, dot, name = term.removesuffix("()").rpartition(".")
    return name in members.get(owner, ()) if dot else name in names or name in members


@pytest.mark.parametrize("page", PAGES)
def test_every_path_exists(page: str) -> None:
    paths = [term for term in terms(page) if "/" in term and PATH.fullmatch(term)]
    assert len(paths) > 20
    assert [path for path in paths if not ((ROOT / path).is_dir() if path.endswith("/") else (ROOT / path).exists())] == []


@pytest.mark.parametrize("page", PAGES)
def test_every_class_is_defined(page: str) -> None:
    classes = [term for term in terms(page) if CLASS.fullmatch(term)]
    assert len(classes) > 10
    assert [term for term in classes if not is_defined(term)] == []


@pytest.mark.parametrize("page", PAGES)
def test_every_function_is_defined(page: str) -> None:
    assert [term for term in terms(page) if FUNCTION.fullmatch(term) and not is_defined(term)] == []


def items(page: str) -> Iterator[tuple[str, frozenset[str]]]:
    """Yield each row and list item with a module or folder, its own or its section's, and the names defined there."""
    for section in SECTION.split(CODE_BLOCK.sub("", (ROOT / page).read_text(encoding="utf-8"))):
        usual = USUAL_MODULE.findall(section)
        for item in ITEM.findall(section):
            paths = [ROOT / term for term in [*TERM.findall(item), *usual] if "/" in term and PATH.fullmatch(term)]
            modules = [path for path in paths if path.suffix == ".py" or any(path.glob("*.py"))]
            if modules:
                yield item, frozenset().union(*map(names_in, modules))


@pytest.mark.parametrize("page", PAGES)
def test_every_class_and_function_is_in_the_module_named_beside_it(page: str) -> None:
    found = list(items(page))
    assert len(found) > 20
    beside = [(term, names) for item, names in found for term in TERM.findall(item)]
    named = [(term, names) for term, names in beside if CLASS.fullmatch(term) or FUNCTION.fullmatch(term)]
    assert [term for term, names in named if term.removesuffix("()").partition(".")[0] not in names] == []


@pytest.mark.parametrize("page", PAGES)
def test_every_constant_is_in_the_module_named_beside_it(page: str) -> None:
    beside = [(word, names) for item, names in items(page) for word in CONSTANT.findall(item)]
    named = [(word, names) for word, names in beside if len(word) >= 4 and not WORD.fullmatch(word)]
    assert [word for word, names in named if word not in names] == []


@pytest.mark.parametrize("page", LINKED)
def test_every_link_leads_to_a_file(page: str) -> None:
    found = LINK.findall(CODE_BLOCK.sub("", (ROOT / page).read_text(encoding="utf-8")))
    targets = [target for target in found if not target.startswith(EXTERNAL)]
    assert [target for target in targets if not (ROOT / page).parent.joinpath(target).exists()] == []


@pytest.mark.parametrize("page", PAGES)
def test_no_line_is_wider_than_a_screen(page: str) -> None:
    lines = (ROOT / page).read_text(encoding="utf-8").splitlines()
    assert [number for number, line in enumerate(lines, 1) if len(line) > WIDTH] == []
