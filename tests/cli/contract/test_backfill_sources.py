"""`radclipd backfill`: a source that cannot be is refused at once, with the reason."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from adapters.cli import app
from pipeline.errors import RadclipdError
from tests.builders import second_user
from tests.builders.dicom_files import dx, file_of

FROM = ("--from", "2025-01-01")


@pytest.fixture
def refusal(tmp_path: Path, sqlite_template: Path) -> Callable[..., RadclipdError]:
    """Return what runs a backfill that is refused, and returns the error."""
    (tmp_path / "catalog.db").write_bytes(sqlite_template.read_bytes())
    config = tmp_path / "radclipd.toml"
    config.write_text(
        f'[catalog]\nurl = "sqlite:///{tmp_path}/catalog.db"\n[storage]\ndirectory = "{tmp_path}/images"\nmin_free = "1MiB"\n'
    )

    def run(*arguments: str) -> RadclipdError:
        done = CliRunner().invoke(app, ["--config", str(config), "backfill", *arguments])
        assert isinstance(done.exception, RadclipdError), done.output
        assert done.exception.hint
        return done.exception

    return run


@pytest.mark.parametrize(
    ("name", "reason"),
    [("nope", "no such folder"), ("file", "this is not a folder"), ("file/below", "no such folder"), ("empty", "it holds no file")],
)
def test_a_folder_without_files_is_refused_with_the_reason(
    tmp_path: Path, refusal: Callable[..., RadclipdError], name: str, reason: str
) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty/below/deep").mkdir(parents=True)
    error = refusal("--folder", str(tmp_path / name))
    assert str(error) == f"folder {tmp_path / name}: {reason}"


@pytest.mark.parametrize(
    "source",
    [
        ("--orthanc", "http://no.such.host.invalid:8042"),
        ("--dicomweb", "https://no.such.host.invalid/dicom-web"),
        ("--query-retrieve", "PACS@no.such.host.invalid:104"),
        ("--query-retrieve", "PACS@a..b:104"),
    ],
)
def test_a_host_that_does_not_resolve_is_refused(refusal: Callable[..., RadclipdError], source: tuple[str, str]) -> None:
    assert "no name that this host resolves" in str(refusal(*source, *FROM))


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:99999", "http://127.0.0.1:port", "http://:8042", "ftp://127.0.0.1", "127.0.0.1:8042"]
)
@pytest.mark.parametrize("option", ["--orthanc", "--dicomweb"])
def test_a_url_that_is_none_is_refused(refusal: Callable[..., RadclipdError], option: str, url: str) -> None:
    assert "begins with http:// or https://" in str(refusal(option, url, *FROM))


@pytest.mark.parametrize("port", ["0", "65536", "99999"])
def test_a_port_that_is_none_is_a_usage_error(port: str) -> None:
    done = CliRunner().invoke(app, ["backfill", "--query-retrieve", f"PACS@127.0.0.1:{port}", *FROM])
    assert done.exit_code == 2 or "no such file" in str(done.exception)


def test_a_list_of_refusals_that_cannot_be_written_is_refused(tmp_path: Path, refusal: Callable[..., RadclipdError]) -> None:
    (tmp_path / "films").mkdir()
    (tmp_path / "films/1.dcm").write_bytes(file_of(dx()))
    error = refusal("--folder", str(tmp_path / "films"), "--refused", str(tmp_path / "none/list"))
    assert "none/list cannot be written: No such file" in str(error)


def test_what_a_user_cannot_read_is_refused_and_counted() -> None:
    """A root of a tree ends the run; a folder in the tree is counted with the refused instances."""
    python = second_user.find_interpreter()
    with tempfile.TemporaryDirectory(prefix="radclipd-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "var").mkdir()
        os.chown(folder / "var", *second_user.ids())
        config = folder / "radclipd.toml"
        config.write_text(
            f'[catalog]\nurl = "sqlite:///{folder}/var/catalog.db"\n'
            f'[storage]\ndirectory = "{folder}/var/images"\nmin_free = "1MiB"\n'
        )
        radclipd = second_user.radclipd_with(python, config)
        for path in ("films/good", "films/lost+found"):
            (folder / path).mkdir(parents=True)
            (folder / path / "1.dcm").write_bytes(file_of(dx(SOPInstanceUID=f"1.2.{len(path)}")))
        (folder / "films/lost+found").chmod(0o700)
        assert radclipd("db", "upgrade").returncode == 0
        done = radclipd("backfill", "--folder", str(folder / "films"))
        assert "1 instances received" in done.stdout, done.stderr
        assert "1 refused" in done.stdout
        (folder / "films").chmod(0o700)
        refused = radclipd("backfill", "--folder", str(folder / "films"))
        assert refused.returncode == 1
        assert "Permission denied" in refused.stderr
        assert "user nobody" in refused.stderr
