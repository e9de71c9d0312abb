"""The documentation names only files, verbs, keys, versions and schemas that exist."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from adapters.catalog import schema
from adapters.cli import app
from adapters.config import sections

ROOT = Path(__file__).parents[3]
DOCS = ROOT / "deploy/docs"
FOLDERS = ("adapters", "deploy", "migrations", "models", "pipeline", "tests")
PAGES = sorted([*ROOT.glob("*.md"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.md"))])
MEASURED = {DOCS / "catalog-size.md", DOCS / "performance.md"}
"""Pages of benchmarks: their schema is that of the measurement, and `catalog.vs_orm_per_row` is a ratio."""

FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"`([^`]+)`")
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ +(.+?) *$", re.MULTILINE)
COMMAND = re.compile(r"(?:^|[;|(]|&&|\s--|sudo|-u radclipd) *(?:\$ )?radclipd((?: [a-z][a-z0-9-]*)+)", re.MULTILINE)
"""`radclipd` where a shell would take it for the program, and the bare words after it."""
KEY = re.compile(r"^\[?([a-z_]+)(?:\.|\] )([a-z_]+)(?: = .*)?$")
"""`section.key`, `[section] key`, either with a value."""
FILE_SUFFIXES = {"csv", "html", "json", "md", "parquet", "png", "svg", "toml"}

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def current_text(page: Path) -> str:
    """Return the text without what names the past: the changelog's tables of old and new names."""
    text = page.read_text()
    if page.name != "CHANGELOG.md":
        return text
    return "\n".join(line for line in text.splitlines() if not line.startswith("|"))


def without_code(text: str) -> str:
    return INLINE.sub("", FENCE.sub("", text))


def code_of(text: str) -> Iterator[str]:
    """Yield each block of code, and each inline code as one line."""
    yield from (block for _, block in FENCE.findall(text))
    yield from inline_code_of(text)


def inline_code_of(text: str) -> Iterator[str]:
    yield from (" ".join(code.split()) for code in INLINE.findall(FENCE.sub("", text)))


def anchors_of(page: Path) -> set[str]:
    """Return the anchors that GitHub gives to the headings."""
    headings = HEADING.findall(FENCE.sub("", page.read_text()))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def unknown_words(words: list[str]) -> list[str]:
    """Return the words up to the first that is no verb; empty where all verbs exist."""
    command: Any = get_command(app)
    for depth, word in enumerate(words, 1):
        if not hasattr(command, "commands"):
            return []  # the rest are arguments
        if word not in command.commands:
            return words[:depth]
        command = command.commands[word]
    return []


@pages
def test_every_relative_link_resolves(page: Path) -> None:
    broken = []
    for target in LINK.findall(without_code(page.read_text())):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        if not linked.exists() or (anchor and anchor not in anchors_of(linked)):
            broken.append(target)
    assert broken == []


def test_the_index_names_every_page() -> None:
    linked = {(DOCS / target.partition("#")[0]).resolve() for target in LINK.findall((DOCS / "README.md").read_text())}
    assert {page.name for page in DOCS.glob("*.md") if page not in linked} == {"README.md"}


@pages
def test_every_verb_exists(page: Path) -> None:
    written = [words.split() for code in code_of(current_text(page)) for words in COMMAND.findall(code)]
    assert [unknown for words in written if (unknown := unknown_words(words))] == []


@pytest.mark.parametrize("page", [page for page in PAGES if page not in MEASURED], ids=lambda page: str(page.relative_to(ROOT)))
def test_every_key_exists(page: Path) -> None:
    known = set(sections.key_descriptions())
    names = {key.partition(".")[0] for key in known}
    written = [found.groups() for code in inline_code_of(current_text(page)) if (found := KEY.match(code))]
    keys = {f"{section}.{key}" for section, key in written if section in names and key not in FILE_SUFFIXES}
    assert keys - known == set()


@pages
def test_every_key_of_an_example_exists(page: Path) -> None:
    blocks = [tomllib.loads(block) for language, block in FENCE.findall(page.read_text()) if language == "toml"]
    keys = {f"{section}.{key}" for block in blocks for section, values in block.items() for key in values}
    assert keys - set(sections.key_descriptions()) == set()


@pytest.mark.parametrize("page", [ROOT / "README.md", *sorted(set(DOCS.glob("*.md")) - MEASURED)], ids=lambda page: page.name)
def test_the_schema_is_that_of_this_release(page: Path) -> None:
    assert set(re.findall(r"\bschema(?: |=\")(\d{4})\b", page.read_text())) <= {schema.head()}


@pytest.mark.parametrize(
    ("page", "pattern"),
    [
        (DOCS / "dicom-conformance.md", r"radclipd (\d+\.\d+\.\d+)\b"),
        (DOCS / "run.md", r'version="([\d.]+)"'),
        (ROOT / "CHANGELOG.md", r"\A.*?^## ([\d.]+)"),
    ],
    ids=lambda value: value.name if isinstance(value, Path) else "",
)
def test_the_version_is_that_of_the_project(page: Path, pattern: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(re.findall(pattern, page.read_text(), re.DOTALL | re.MULTILINE)) == {project["version"]}
