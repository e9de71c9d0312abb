"""schemathesis on the interface for programs: what it sends, valid and not, is answered as the description says."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.domain import UserRole
from pipeline.users import make_token
from tests.builders.catalog_rows import import_statement
from tests.builders.desk import Desk
from tests.builders.dicom_files import dx

EXAMPLES, SEED = 40, 1
"""Cases for each path, beside those that cover the description; the same in every run."""


@pytest.fixture
def filled(desk: Desk) -> Iterator[Desk]:
    studies = [desk.add_film(dx(AccessionNumber=f"=A{number}", PatientID=f"P{number}")) for number in range(3)]
    import_statement(desk.catalog, studies[0], reader="bob")
    yield desk


@pytest.mark.parametrize("role", [UserRole.ADMINISTRATOR, UserRole.VIEWER])
def test_schemathesis_finds_nothing(filled: Desk, role: UserRole, tmp_path: Path) -> None:
    filled.add_user("program", role)
    token = make_token("program", catalog=filled.catalog, source="test")
    with filled.served() as address:
        options = ["--header", f"Authorization: Bearer {token}", "--checks", "all", "--max-examples", str(EXAMPLES)]
        options += ["--seed", str(SEED), "--generation-database", "none", "--no-color"]
        done = subprocess.run(
            [sys.executable, "-m", "schemathesis.cli", "run", f"{address}/api/v1/openapi.json", *options],
            cwd=tmp_path,  # it writes a folder of its own
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 selected / 4 total" in done.stdout
