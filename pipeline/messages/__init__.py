"""messages: the words of reports, one file per language.

A language is a TOML file beside this module with the keys of `en.toml` and the same {fields} in each text. A text is filled by
`str.format`. Codes, keys and numbers of the catalog are English in every language; these are the words that people read.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

ENGLISH = "en"


@dataclass(frozen=True, slots=True)
class Messages:
    """The messages of one language."""

    language: str  # RFC 5646, such as "en" or "de"
    _texts: Mapping[str, str]

    def __call__(self, key: str, **values: Any) -> str:
        """Return the text of a key, filled. KeyError for an unknown key, or for a field without a value."""
        return self._texts[key].format(**values)

    @property
    def texts(self) -> Mapping[str, str]:
        """The texts by dotted key, unfilled."""
        return self._texts


@cache
def load_messages(language: str = ENGLISH) -> Messages:
    """Return the messages of a language. ValueError, naming the languages, where there is none."""
    if language not in languages():
        raise ValueError(f"no reports in {language!r}: one of {', '.join(languages())}")
    content = tomllib.loads(files(__name__).joinpath(f"{language}.toml").read_text(encoding="utf-8"))
    return Messages(language, {f"{section}.{key}": text for section, texts in content.items() for key, text in texts.items()})


@cache
def languages() -> tuple[str, ...]:
    """Return the languages that have a file."""
    names = (entry.name for entry in files(__name__).iterdir())
    return tuple(sorted(name.removesuffix(".toml") for name in names if name.endswith(".toml")))
