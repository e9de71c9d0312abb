"""The prompts of zero-shot scoring: templates and phrases, read from prompts.toml."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from models.fingerprint import fingerprint

PROMPTS_FILE = Path(__file__).with_name("prompts.toml")


@dataclass(frozen=True)
class Prompts:
    """Templates with at most one {} and, per finding, the phrases for it. The order of findings is that of the file."""

    positive: tuple[str, ...]
    negative: tuple[str, ...]
    phrases: Mapping[str, tuple[str, ...]]

    @property
    def findings(self) -> tuple[str, ...]:
        """The findings, in order."""
        return tuple(self.phrases)

    def positives(self, finding: str) -> list[str]:
        """Return the prompts that affirm the finding. Raise KeyError for a finding without phrases."""
        return _fill_templates(self.positive, self.phrases[finding])

    def negatives(self, finding: str) -> list[str]:
        """Return the prompts that deny the finding. Raise KeyError for a finding without phrases."""
        return _fill_templates(self.negative, self.phrases[finding])

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over all templates and phrases, in order."""
        phrases = [[finding, list(phrases)] for finding, phrases in self.phrases.items()]
        return fingerprint({"positive": list(self.positive), "negative": list(self.negative), "phrases": phrases})


def read_prompts(path: Path = PROMPTS_FILE) -> Prompts:
    """Read a prompt file. Raise OSError, tomllib.TOMLDecodeError or KeyError for an invalid file, ValueError for an empty list."""
    content = tomllib.loads(path.read_text(encoding="utf-8"))
    templates, phrases = content["templates"], content["phrases"]
    prompts = Prompts(
        positive=tuple(templates["positive"]),
        negative=tuple(templates["negative"]),
        phrases={finding: tuple(texts) for finding, texts in phrases.items()},
    )
    if not (prompts.positive and prompts.negative and phrases and all(phrases.values())):
        raise ValueError(f"{path.name}: every list of templates and phrases needs at least one entry")
    return prompts


def _fill_templates(templates: Sequence[str], phrases: Sequence[str]) -> list[str]:
    """Combine every template with every phrase, without repeats."""
    return list(dict.fromkeys(template.replace("{}", phrase) for template in templates for phrase in phrases))
