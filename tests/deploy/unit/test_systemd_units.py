"""The systemd units are valid, sandboxed, watched and complete."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from adapters.config.sections import Config

DEPLOY = Path(__file__).resolve().parents[3] / "deploy"
UNITS = sorted(path for path in (DEPLOY / "systemd").iterdir() if path.suffix in {".service", ".socket", ".target"})
SERVICES = [path for path in UNITS if path.suffix == ".service"]
EXPOSURE_LIMIT = 2.0
LOADS_TORCH = {"radclipd.service", "radclipd-scorer.service", "radclipd-learner.service", "radclipd-web.service"}

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


def settings(path: Path) -> configparser.ConfigParser:
    """Read a unit; of a repeated key, the last value."""
    unit = configparser.ConfigParser(strict=False, interpolation=None, comment_prefixes=("#",), delimiters=("=",))
    unit.optionxform = str  # type: ignore[assignment,method-assign] # keys are case-sensitive: documented way to say so
    unit.read(path)
    return unit


@needs_systemd
@pytest.mark.parametrize("path", SERVICES, ids=lambda path: path.name)
def test_the_exposure_of_each_service_is_within_the_limit(path: Path) -> None:
    report = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--no-pager", str(path)], capture_output=True, text=True, timeout=60
    )
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", report.stdout)
    assert found, report.stderr
    assert float(found[1]) <= EXPOSURE_LIMIT


@needs_systemd
def test_systemd_analyze_verifies_every_unit(tmp_path: Path) -> None:
    for path in UNITS:
        text = path.read_text().replace("/opt/radclipd/venv/bin/radclipd", shutil.which("true") or "")
        (tmp_path / path.name).write_text(text)
    verified = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *(str(tmp_path / path.name) for path in UNITS)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    complaints = [line for line in verified.stderr.splitlines() if "radclipd" in line]
    assert complaints == []


@pytest.mark.parametrize("path", SERVICES, ids=lambda path: path.name)
def test_each_service_is_watched_restarted_and_unprivileged(path: Path) -> None:
    service = settings(path)["Service"]
    assert service["Type"] == "notify"
    assert float(service["WatchdogSec"]) > 0
    assert service["Restart"] == "always"
    assert service["RestartPreventExitStatus"] == "78"
    assert service["User"] == "radclipd"
    assert service["ExecStart"].startswith("/opt/radclipd/venv/bin/radclipd ")


@pytest.mark.parametrize("path", SERVICES, ids=lambda path: path.name)
def test_each_service_has_a_memory_limit_that_ends_one_process_only(path: Path) -> None:
    service = settings(path)["Service"]
    assert re.fullmatch(r"\d+G|[1-8]\d%", service["MemoryMax"])
    assert service["OOMPolicy"] == "continue"


@pytest.mark.parametrize("path", SERVICES, ids=lambda path: path.name)
def test_only_services_that_load_torch_may_map_writable_code(path: Path) -> None:
    assert (settings(path)["Service"].get("MemoryDenyWriteExecute") != "yes") == (path.name in LOADS_TORCH)


@pytest.mark.parametrize("socket", ["radclipd.socket", "radclipd-listener.socket"])
def test_each_socket_belongs_to_its_service_and_queues_connections(socket: str) -> None:
    unit = settings(DEPLOY / "systemd" / socket)["Socket"]
    assert unit["ListenStream"] == "11112"
    assert int(unit["Backlog"]) >= 128
    assert settings(DEPLOY / "systemd" / unit["Service"])["Service"]["Sockets"] == socket


def test_the_target_has_every_role() -> None:
    roles = {path.name for path in SERVICES} - {"radclipd.service"}
    assert set(settings(DEPLOY / "systemd" / "radclipd.target")["Install"]["Also"].split()) == roles
    for role in roles:
        assert settings(DEPLOY / "systemd" / role)["Install"]["WantedBy"] == "radclipd.target"


@pytest.mark.skipif(shutil.which("systemd-tmpfiles") is None or os.geteuid() != 0, reason="needs systemd-tmpfiles and root")
def test_sysusers_and_tmpfiles_create_user_and_folders(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    for tool, arguments in (("systemd-sysusers", []), ("systemd-tmpfiles", ["--create"])):
        kind = tool.removeprefix("systemd-")
        subprocess.run([tool, f"--root={root}", *arguments, str(DEPLOY / f"{kind}.d" / "radclipd.conf")], check=True, timeout=60)
    assert "radclipd:" in (root / "etc" / "passwd").read_text()
    config = Config()
    for folder in (config.storage.directory, config.model.directory, config.activation_cache.directory, config.web.directory):
        assert (root / folder.relative_to("/")).stat().st_mode & 0o777 == 0o750
    assert (root / "etc/radclipd").stat().st_mode & 0o007 == 0
