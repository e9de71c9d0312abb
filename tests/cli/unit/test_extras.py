"""The daemon does without the libraries of the extras; the verbs that need an extra name it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.builders.command import ROOT

EXTRAS = {
    "lab": ("markdown_it", "matplotlib", "pyarrow"),
    "scale": ("pandas", "pyarrow", "ray"),
    "web": ("argon2", "fastapi", "itsdangerous", "jinja2", "python_multipart", "uvicorn"),
}
LIBRARIES = sorted({library for libraries in EXTRAS.values() for library in libraries})
WITHOUT = f"""
import sys
for name in {LIBRARIES}:
    sys.modules[name] = None  # an import raises ImportError
"""
VERBS = {
    "demo": "lab",
    "experiment fewshot": "lab",
    "experiment worklist": "lab",
    "backfill score": "scale",
    "web": "web",
    "users add alice": "web",
    "users reset alice": "web",
}
IMPORTABLE = (
    "adapters.app",
    "adapters.cli",
    "adapters.ml",
    "adapters.cluster",
    "adapters.simulator",
    "adapters.datasets",
    "adapters.demo",
)
WALK = """
import importlib, json, pkgutil
imported = []
for name in json.loads(sys.argv[1]):
    package = importlib.import_module(name)
    for module in pkgutil.walk_packages(package.__path__, f"{name}."):
        if not module.name.endswith(".__main__"):
            importlib.import_module(module.name)
            imported.append(module.name)
print(len(imported))
"""


def run_without(code: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process in which no library of an extra can be imported."""
    return subprocess.run(
        [sys.executable, "-c", WITHOUT + code, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), "RADCLIPD_CONFIG": str(ROOT / "deploy/radclipd.toml")},
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )


@pytest.mark.parametrize(("verb", "extra"), VERBS.items())
def test_a_verb_names_the_extra_that_it_needs(verb: str, extra: str, tmp_path: Path) -> None:
    done = run_without("from adapters.cli import main\nmain()", *verb.split(), cwd=tmp_path)
    said, hint = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (78, "")
    assert said == f"radclipd: this verb needs the extra radclipd[{extra}]: no module {', '.join(EXTRAS[extra])}"
    assert hint.startswith("hint: ")
    assert f"'.[{extra}]'" in hint
    assert list(tmp_path.iterdir()) == []


def test_daemon_simulator_and_demo_import_without_the_extras(tmp_path: Path) -> None:
    done = run_without(WALK, json.dumps(IMPORTABLE), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 80


@pytest.mark.parametrize("words", [("phantoms", "--sheet", "sheet.png"), ("nih-to-dicom", "--folder", "none", "--out", "out")])
def test_films_are_made_without_the_extras(words: tuple[str, ...], tmp_path: Path) -> None:
    done = run_without("from adapters.cli import main\nmain()", "experiment", *words, cwd=tmp_path)
    assert "extra" not in done.stderr
    assert "Traceback" not in done.stderr
