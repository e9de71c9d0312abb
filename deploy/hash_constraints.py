"""constraints.txt -> constraints-hashes.txt: each pinned package with the SHA-256 of the file that pip would install here.

    .venv/bin/python deploy/hash_constraints.py

pip asks its indexes and downloads no package (`pip install --dry-run --report`). A hash that is in the file already is kept beside
a new one of the same version: other platforms have other files.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
CONSTRAINTS, HASHED = ROOT / "constraints.txt", ROOT / "constraints-hashes.txt"
HASH = "--hash=sha256:"


def main() -> int:
    """Write the file."""
    known = read_hashes(HASHED)
    found = collect_hashes(ask_pip(CONSTRAINTS))
    lines = []
    for pinned in CONSTRAINTS.read_text().split():
        hashes = sorted({*known.get(pinned, ()), *found.get(normalise(pinned), ())})
        if not hashes:
            sys.stderr.write(f"no hash of {pinned}\n")
            return 1
        lines.append(" ".join([pinned, *(f"{HASH}{value}" for value in hashes)]))
    HASHED.write_text("\n".join(lines) + "\n")
    return 0


def read_hashes(path: Path) -> dict[str, list[str]]:
    """Return pinned package -> its hashes in a file of `main`; empty where there is no file."""
    lines = path.read_text().splitlines() if path.exists() else []
    return {words[0]: [word.removeprefix(HASH) for word in words[1:]] for words in map(str.split, lines)}


def ask_pip(constraints: Path) -> Mapping[str, Any]:
    """Return pip's report on what it would install of the constraints."""
    words = [
        "install",
        "--quiet",
        "--dry-run",
        "--ignore-installed",
        "--no-deps",
        "--report",
        "-",
        "--requirement",
        str(constraints),
    ]
    asked = subprocess.run([sys.executable, "-m", "pip", *words], check=True, stdout=subprocess.PIPE)
    report: Mapping[str, Any] = json.loads(asked.stdout)
    return report


def collect_hashes(report: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return pinned package, normalised and without a local version, -> the hash of its file."""
    return {
        normalise(f"{one['metadata']['name']}=={one['metadata']['version']}"): [
            one["download_info"]["archive_info"]["hashes"]["sha256"]
        ]
        for one in report["install"]
    }


def normalise(pinned: str) -> str:
    """Return `name==version` as two spellings of one package share it: PEP 503, without a local version such as +cpu."""
    name, _, version = pinned.partition("==")
    return f"{name.lower().replace('_', '-').replace('.', '-')}=={version.partition('+')[0]}"


if __name__ == "__main__":
    sys.exit(main())
