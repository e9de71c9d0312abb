"""Verbs that need no torch never import it: each runs in a process in which torch cannot be imported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import typer

from adapters.catalog.catalog import SqlCatalog
from adapters.cli import app
from adapters.demo.loopback import free_ports
from adapters.storage.image_store import FileImageStore
from tests.builders.catalog_rows import add_reported_study, pending_report
from tests.builders.dicom_files import file_of, sr

ROOT = Path(__file__).parents[3]
FREE: tuple[tuple[str, ...], ...] = (
    ("db", "current"),
    ("db", "upgrade"),
    ("db", "maintain"),
    ("check", "--configuration"),
    ("query", "select * from v_studies"),
    ("studies",),
    ("studies", "conflicts"),
    ("studies", "fetch", "9.9"),  # refused: there is none
    ("studies", "resolve", "9", "--keep", "stored"),  # refused: there is none
    ("jobs", "list"),
    ("jobs", "retry", "--all"),
    ("reports", "list"),
    ("reports", "show", "2.25.2"),
    ("reports", "resend", "1.4"),
    ("reports", "stop", "--finding", "Mass", "--reason", "why"),
    ("reports", "stops"),
    ("reports", "shadow"),
    ("reports", "resume", "--finding", "Mass"),
    ("reports", "recall", "1", "--reason", "why"),
    ("show", "1.4"),
    ("references", "list"),
    ("references", "make"),  # refused: the version has learnt every finding
    ("labels", "add", "1.4", "Mass", "--reader", "alice"),
    ("labels", "template", "1.4"),
    ("labels", "import", "labels.csv", "--reader", "alice"),
    ("labels", "list"),
    ("labels", "conflicts"),
    ("labels", "export"),
    ("labels", "revoke", "1", "--reader", "alice"),
    ("labels", "explain", "2.25.9"),  # refused: not there; the reader of documents is loaded before
    ("labels", "reread"),
    ("worklist",),
    ("label-next", "--dry-run"),
    ("versions", "list"),
    ("versions", "show", "1"),
    ("versions", "promote", "9"),  # refused: there is none
    ("versions", "rollback"),  # refused: none served before
    ("versions", "reject", "1", "--reason", "why"),  # refused: it serves
    ("backfill", "--folder", "."),  # not in LOADS_TORCH: it has verbs of its own
    ("backfill", "status"),
    ("status",),
    ("manual",),
    ("completion", "bash"),
    ("audit", "list"),
    ("audit", "verify"),
    ("forget", "NOBODY", "--yes"),  # refused: there is no such patient
    ("export", "research"),
    ("licences", "--cyclonedx"),
    ("users", "list"),
    ("users", "add", "alice", "--password-stdin"),
    ("users", "reset", "alice", "--password-stdin"),
    ("users", "token", "alice"),
    ("users", "disable", "alice"),
    ("experiment", "phantoms", "--sheet", "sheet.png"),
    ("listen",),
    ("dispatch",),
    ("work", "report"),
    ("work", "label"),
    ("web",),
)
"""In this order. The last five run until a signal stops them."""
REFUSED = {"explain", "fetch", "forget", "make", "promote", "rollback", "reject", "resolve"}
LOADS_TORCH = {
    "backfill score",
    "check",  # tries the model and the device; only --configuration is without
    "demo",
    "experiment fewshot",
    "experiment nih-to-dicom",
    "experiment pretrain-demo",
    "experiment worklist",
    "learn",
    "model demo",
    "model fetch",
    "model import",
    "model untrained",
    "score",
    "run",  # itself without; its children load what they need
    "work",  # to score or to learn
}

RUN = """
import contextlib, io, json, os, signal, sys, threading, time
for name in ("torch", "torchvision", "open_clip"):
    sys.modules[name] = None  # to import it is an ImportError
from adapters.cli import main
import adapters.app.run

def stop():
    while signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        time.sleep(0.01)
    time.sleep(0.3)
    os.kill(os.getpid(), signal.SIGTERM)

outcomes = []
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["radclipd", *arguments]
    if arguments[0] in ("listen", "dispatch", "work", "web"):
        threading.Thread(target=stop, daemon=True).start()
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            main()
        outcomes.append([0, ""])
    except SystemExit as ended:
        outcomes.append([ended.code or 0, said.getvalue()])
    except Exception as error:
        outcomes.append([-1, f"{type(error).__name__}: {error}"])
print(json.dumps(outcomes))
"""


def run_all(verbs: Sequence[Sequence[str]], cwd: Path, settings: dict[str, str]) -> list[tuple[int, str]]:
    done = subprocess.run(
        [sys.executable, "-c", RUN, json.dumps(verbs)],
        cwd=cwd,
        env={**os.environ, **settings, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        input="a long password\n" * 2,
    )
    assert done.returncode == 0, done.stderr
    return [(code, said) for code, said in json.loads(done.stdout.splitlines()[-1])]


def test_verbs_run_where_torch_cannot_be_imported(tmp_path: Path, sqlite_template: Path) -> None:
    (tmp_path / "catalog.db").write_bytes(sqlite_template.read_bytes())
    url, store = f"sqlite:///{tmp_path / 'catalog.db'}", FileImageStore(tmp_path / "images")
    add_reported_study(url)
    catalog = SqlCatalog(url)
    with catalog.begin() as tx:
        tx.reports.ensure_pending(pending_report("2.25.2", revision=2))
        tx.reports.mark_built("2.25.2", store.write(file_of(sr())))
    catalog.dispose()
    (tmp_path / "labels.csv").write_text("study_instance_uid,Mass\n1.4,present\n")
    port, web_port = free_ports(2)
    settings = {
        "RADCLIPD_CONFIG": str(ROOT / "deploy/radclipd.toml"),
        "RADCLIPD_CATALOG__URL": url,
        "RADCLIPD_STORAGE__DIRECTORY": str(tmp_path / "images"),
        "RADCLIPD_MODEL__DIRECTORY": str(tmp_path / "models"),
        "RADCLIPD_LISTENER__HOST": "127.0.0.1",
        "RADCLIPD_LISTENER__PORT": str(port),
        "RADCLIPD_WEB__PORT": str(web_port),
        "RADCLIPD_WEB__DIRECTORY": str(tmp_path / "web"),
    }
    outcomes = run_all(FREE, tmp_path, settings)
    outcome_of = {" ".join(verb): outcome for verb, outcome in zip(FREE, outcomes, strict=True)}
    wrong = {verb: outcome for verb, outcome in outcome_of.items() if outcome[0] != int(bool(REFUSED & set(verb.split())))}
    assert not wrong


def test_a_verb_that_needs_torch_fails_without_it(tmp_path: Path) -> None:
    """So a verb that passes above has not imported torch."""
    ((code, said),) = run_all([("model", "demo")], tmp_path, {"RADCLIPD_CONFIG": str(ROOT / "deploy/radclipd.toml")})
    assert code == -1
    assert "torch" in said


def verbs_of(command: Any, above: tuple[str, ...] = ()) -> Iterator[str]:
    for name, below in getattr(command, "commands", {}).items():
        yield from verbs_of(below, (*above, name)) if getattr(below, "commands", None) else [" ".join((*above, name))]


def test_every_verb_is_listed_as_free_of_torch_or_as_loading_it() -> None:
    """A verb that this test does not know belongs in FREE, or, where it needs torch, in LOADS_TORCH."""
    known = {tuple(verb.split()) for verb in verbs_of(typer.main.get_command(app))}
    free = {verb for verb in known if any(run[: len(verb)] == verb for run in FREE)}
    assert known - free == {tuple(verb.split()) for verb in LOADS_TORCH} - free
    assert len(free) > 25


@pytest.mark.parametrize("verb", [(), ("labels",), ("query",)])
def test_help_loads_nothing_heavy(verb: tuple[str, ...]) -> None:
    code = (
        "import sys\nfrom adapters.cli import main\n"
        f"sys.argv = ['radclipd', *{verb!r}, '--help']\n"
        "try:\n    main()\n"
        "except SystemExit:\n    pass\n"
        "print(sorted({'torch', 'sqlalchemy', 'pydicom', 'pynetdicom', 'numpy', 'highdicom', 'structlog'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "[]"
