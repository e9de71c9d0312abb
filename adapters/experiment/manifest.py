"""Manifest of an experiment's folder: all inputs of its figures, so that results of different experiments are never mixed."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from adapters.experiment.bases import ChosenBase
from adapters.experiment.case_source import CaseSource
from models.classifier.prompts import Prompts
from models.evaluation.cases import ABSENT, PRESENT, Cases, Split
from models.fingerprint import fingerprint
from pipeline.errors import OutOfResources, PermanentError

FORMAT = 1
MANIFEST_FILE = "manifest.json"
LIBRARIES = ("radclipd", "torch", "open_clip_torch", "numpy", "scipy", "scikit-learn")
"""Libraries of the computation. A folder holds the results of one set of versions, since others may give other figures."""
SHOWN_HASH_DIGITS = 16
"""Digits of a hash in an error message."""


def build_identity(
    source: CaseSource, cases: Cases, split: Split, base: ChosenBase, prompts: Prompts, *, seed: int
) -> dict[str, Any]:
    """Return the inputs of every figure of a folder, JSON-able. Methods, shots and draws are not part: they may be extended."""
    return {
        "format": FORMAT,
        "films": {"kind": source.kind, "title": source.title, "sha256": source.fingerprint, "options": list_film_options(source)},
        "labels": {"sha256": fingerprint([cases.findings, cases.labels.tolist(), cases.patient.tolist()])},
        "split": {
            "made": source.split_description,
            "sha256": fingerprint({side: sorted(cases.key[rows].tolist()) for side, rows in _split_sides(split)}),
            **{side: count_cases(cases, rows) for side, rows in _split_sides(split)},
        },
        "base": {
            "name": base.name,
            "sha256": base.sha256,
            "notice": base.notice,
            "preprocess": base.preprocess.fingerprint,
            "architecture": base.encoder.architecture.name,
        },
        "prompts": {"sha256": prompts.fingerprint},
        "seed": seed,
        "libraries": {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in LIBRARIES}},
    }


def count_cases(cases: Cases, rows: Any) -> dict[str, Any]:
    """Return the numbers of films and patients of a side, and of present and absent labels of each finding."""
    labels = cases.labels[rows]
    present, absent = (labels == PRESENT).sum(axis=0).tolist(), (labels == ABSENT).sum(axis=0).tolist()
    return {
        "films": len(rows),
        "patients": len(set(cases.patient[rows].tolist())),
        "present": dict(zip(cases.findings, present, strict=True)),
        "absent": dict(zip(cases.findings, absent, strict=True)),
    }


def _split_sides(split: Split) -> tuple[tuple[str, Any], tuple[str, Any]]:
    return ("pool", split.pool), ("test", split.test)


def list_film_options(source: CaseSource) -> dict[str, Any]:
    """Return the identity without its list of films."""
    return {name: value for name, value in source.identity.items() if not isinstance(value, list)}


def claim_folder(out: Path, wanted: Mapping[str, Any]) -> None:
    """Claim `out` as the folder of this experiment. PermanentError, naming the differences, where it belongs to another."""
    path = out / MANIFEST_FILE
    if path.is_file():
        kept = read_manifest(out).get("identity", {})
        if different := list(find_differences(kept, wanted)):
            raise PermanentError(
                f"{out} holds another experiment: {'; '.join(different)}",
                hint="give another --out, or the options it was made with",
            )
        return
    if out.exists() and any(out.iterdir()):
        raise PermanentError(f"{out} is not empty and holds no experiment", hint="give a new or empty folder as --out")
    write_manifest(out, {"identity": dict(wanted)})


def read_manifest(out: Path) -> dict[str, Any]:
    """Return the manifest of a folder. PermanentError where it cannot be read."""
    try:
        found: dict[str, Any] = json.loads((out / MANIFEST_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PermanentError(f"{out / MANIFEST_FILE} cannot be read", hint="give another --out") from error
    return found


def write_manifest(out: Path, content: Mapping[str, Any]) -> None:
    """Write the manifest atomically. OutOfResources for disk errors."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        part = out / f"{MANIFEST_FILE}.part"
        part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        part.replace(out / MANIFEST_FILE)
    except OSError as error:
        raise OutOfResources(f"cannot write into {out}: {error.strerror}", hint="give another --out") from error


def find_differences(kept: Any, wanted: Any, place: str = "") -> Iterator[str]:
    """Yield "PLACE is KEPT, not WANTED" for every differing leaf, with shortened hashes."""
    if isinstance(kept, Mapping) and isinstance(wanted, Mapping):
        for name in sorted({*kept, *wanted}):
            yield from find_differences(kept.get(name), wanted.get(name), f"{place}.{name}".lstrip("."))
    elif kept != wanted:
        yield f"{place} is {_shorten_hash(kept)}, not {_shorten_hash(wanted)}"


def _shorten_hash(value: Any) -> str:
    text = str(value)
    return f"{text[:SHOWN_HASH_DIGITS]}..." if len(text) == 64 else text


def git_commit() -> str | None:
    """Return the git commit of the code, with +changes for modified files; None outside a checkout."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    try:
        head = _run_git(root, "rev-parse", "HEAD")
        return head + ("+changes" if _run_git(root, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _run_git(root: Path, *words: str) -> str:
    return subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=True, timeout=10).stdout.strip()
