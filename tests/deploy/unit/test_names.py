"""The naming check refuses what CONTRIBUTING.md forbids, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import names

GOOD = "class ClaimSizer:\n    @property\n    def _seconds(self): ...\n    def _claim_jobs(self): ...\n    def __len__(self): ...\n"


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(names, "ROOT", tmp_path)
    monkeypatch.setattr(names, "PARTICIPLE_CLASSES", {})
    write(tmp_path, "pipeline/work.py", GOOD)
    return tmp_path


def write(root: Path, path: str, code: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(code)


def test_good_names_pass(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tree, "pipeline/ports/work.py", "class Jobs: ...\n")
    write(tree, "adapters/catalog/jobs.py", "class SqlJobs: ...\n")
    write(tree, "adapters/cli/jobs.py", "")
    assert names.main() == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("path", "code", "refused"),
    [
        ("models/head.py", "def _take(): ...\n", "models/head.py:1: private function of one word: _take"),
        ("models/head.py", "class A1:\n    async def _look(self): ...\n", "models/head.py:2: private function of one word: _look"),
        ("models/head.py", "class _Moved: ...\n", "models/head.py:1: class named by one participle: _Moved"),
        ("models/head.py", "class _ClaimSizer: ...\n", "models/head.py:1: class ClaimSizer stands at pipeline/work.py:1 too"),
        ("pipeline/steps/work.py", "", "pipeline/work.py: module work stands at pipeline/steps/work.py too"),
    ],
)
def test_bad_names_are_listed(tree: Path, path: str, code: str, refused: str, capsys: pytest.CaptureFixture[str]) -> None:
    write(tree, path, code)
    assert names.main() == 1
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(refused)


def test_an_exception_is_honoured_until_its_name_is_gone(
    tree: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(names, "PARTICIPLE_CLASSES", {"Patient": "DICOM's noun"})
    write(tree, "models/head.py", "class Patient: ...\n")
    assert names.main() == 0
    write(tree, "models/head.py", "")
    assert names.main() == 1
    assert "exception of Patient" in capsys.readouterr().out
