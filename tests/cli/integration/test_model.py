from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from adapters.catalog import schema
from adapters.ml import importer
from adapters.storage.model_store import ModelStore
from models.demo import NOTICE
from tests.builders import tiny
from tests.builders.shipped import shipped

ROOT = Path(__file__).parents[3]

_SCRIPT = """
import json, sys, typer
from pathlib import Path
from adapters.cli import model, versions
from adapters.cli.settings import GlobalOptions
from pipeline.errors import RadclipdError

app = typer.Typer()

@app.callback()
def root(ctx: typer.Context) -> None:
    ctx.obj = GlobalOptions(Path(sys.argv[1]))

model.register(app)
versions.register(app)
assert not {"torch", "sqlalchemy", "pydicom"} & set(sys.modules), "heavy imports before a verb runs"
for arguments in json.loads(sys.argv[2]):
    print("$", *arguments)
    try:
        app(arguments, standalone_mode=False)
    except RadclipdError as error:
        print(type(error).__name__, error, "| hint:", error.hint)
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    url = f"sqlite:///{tmp_path / 'catalog.db'}"
    schema.upgrade(url)
    (tmp_path / "radclipd.toml").write_text(f'[catalog]\nurl = "{url}"\n[model]\ndirectory = "{tmp_path / "models"}"\n')
    return tmp_path


def verbs(home: Path, *calls: list[str]) -> list[str]:
    """Run verbs one after the other in a fresh process; return what each printed on standard output."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", _SCRIPT, str(home / "radclipd.toml"), json.dumps(calls)],
        cwd=ROOT,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [part.partition("\n")[2] for part in ("\n" + done.stdout).split("\n$ ")[1:]]


def test_untrained_import_and_versions_list_on_a_real_catalog(home: Path) -> None:
    config, weights = tiny.config_file(home), home / "clip.pt"
    torch.save(tiny.encoder(quickgelu=True).network.state_dict(), weights)
    # a base without a version, as after an import whose catalog became unreachable
    importer.import_untrained_base(ModelStore(home / "models"), str(config), seed=9)
    made, imported, listed = verbs(
        home,
        ["model", "untrained", "--architecture", str(config), "--seed", "3"],
        [
            "model",
            "import",
            str(weights),
            "--architecture",
            str(config),
            "--quickgelu",
            "--name",
            "ours",
            "--notice",
            "demo",
            "--serve",
        ],
        ["versions", "list", "--json"],
    )
    assert made.startswith("version 1  serving  zero-shot untrained-tiny-3")
    assert made.rstrip().endswith("UNTRAINED")
    assert imported.startswith("version 2  serving  zero-shot ours")
    rows = json.loads(listed)
    assert [(row["number"], row["state"], row["activation"], row["notice"], row["files"]) for row in rows] == [
        (1, "retired", "GELU", "UNTRAINED", "present"),
        (2, "serving", "QuickGELU", "demo", "present"),
        (None, "unused", "GELU", "UNTRAINED", "present"),
    ]


def test_a_refusal_names_its_remedy(home: Path) -> None:
    (home / "page.pt").write_text("<html>not found</html>")
    missing, page, unknown, offline, listed = verbs(
        home,
        ["model", "import", str(home / "nothing.pt"), "--architecture", "ViT-B-32"],
        ["model", "import", str(home / "page.pt"), "--architecture", str(tiny.config_file(home))],
        ["model", "import", str(home / "page.pt"), "--architecture", "ViT-B32"],
        ["model", "fetch", "hf-hub:someone/nothing"],
        ["versions", "list", "--csv"],
    )
    assert missing.startswith("NoWeights")
    assert page.startswith("WeightsCorrupt")
    assert unknown.startswith("PermanentError")
    assert "ViT-B-32" in unknown
    assert offline.startswith("TransientError")
    assert "model import FILE" in offline
    assert len(listed.splitlines()) == 1  # the header: nothing was registered


@shipped
def test_model_demo_imports_the_shipped_encoder_and_serves_it_only_with_serve(home: Path) -> None:
    first, kept, served, listed = verbs(
        home,
        ["model", "untrained", "--architecture", str(tiny.config_file(home))],
        ["model", "demo"],
        ["model", "demo", "--name", "again", "--serve"],
        ["versions", "list", "--json"],
    )
    assert first.startswith("version 1  serving")
    assert kept.startswith("version 2  candidate  zero-shot demo-clip")
    assert kept.rstrip().endswith(NOTICE)
    assert served.startswith("version 3  serving  zero-shot again")
    rows = json.loads(listed)
    assert [(row["number"], row["notice"]) for row in rows] == [(1, "UNTRAINED"), (2, NOTICE), (3, NOTICE)]
    assert rows[0]["weights"] != rows[1]["weights"] == rows[2]["weights"]
