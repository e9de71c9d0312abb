"""deploy/install.sh: the extras that it installs, with an interpreter and a pip that only write down how they are called."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

INSTALL = Path(__file__).resolve().parents[3] / "deploy" / "install.sh"
PYTHON = """#!/bin/sh
[ "$1" != -c ] || { echo /usr/bin/python3; exit 0; }
[ "$2" != adapters.cli ] || { shift 2; echo "printed by $*"; exit 0; }
mkdir -p "$3/bin"
cp "$0" "$3/bin/python"
echo "home = /usr/bin" > "$3/pyvenv.cfg"
printf '#!/bin/sh\\necho "$*" >> "%s"\\nexit %s\\n' "$CALLS" "$STATUS" > "$3/bin/pip"
chmod +x "$3/bin/pip"
"""


def install(folder: Path, extras: str, status: int = 0) -> tuple[subprocess.CompletedProcess[str], str]:
    """Install into a folder; return the finished process and the last call of pip, which ends with `status`."""
    python, calls = folder / "python3", folder / "calls"
    python.write_text(PYTHON)
    python.chmod(0o755)
    environment = {"PATH": "/usr/bin:/bin", "DESTDIR": str(folder / "root"), "PYTHON": str(python), "EXTRAS": extras}
    done = subprocess.run(
        ["sh", INSTALL], env=environment | {"CALLS": str(calls), "STATUS": str(status)}, capture_output=True, text=True, timeout=60
    )
    return done, calls.read_text().splitlines()[-1] if calls.exists() else ""


@pytest.mark.parametrize(
    ("extras", "named"), [("", ""), ("lab", "[lab]"), ("lab scale", "[lab,scale]"), ("lab,gpl-codecs", "[lab,gpl-codecs]")]
)
def test_extras_are_installed_with_the_package(tmp_path: Path, extras: str, named: str) -> None:
    done, call = install(tmp_path, extras)
    assert done.returncode == 0, done.stderr
    assert call.endswith(f" {INSTALL.parents[1]}{named}")
    assert f"install: step 3 of 4: radclipd{named} and its dependencies (about 1 minute)" in done.stdout
    assert done.stdout.count(" of 4: ") == len(re.findall(r"step \d took \d+ s", done.stdout)) == 4
    assert (tmp_path / "root/etc/radclipd/radclipd.toml").exists()


def test_manual_page_and_completion_are_what_the_verbs_print(tmp_path: Path) -> None:
    done, _ = install(tmp_path, "")
    assert done.returncode == 0, done.stderr
    written = {
        "man/man1/radclipd.1": "manual",
        "bash-completion/completions/radclipd": "completion bash",
        "zsh/site-functions/_radclipd": "completion zsh",
        "fish/vendor_completions.d/radclipd.fish": "completion fish",
    }
    for name, verb in written.items():
        file = tmp_path / "root/usr/local/share" / name
        assert (file.read_text(), oct(file.stat().st_mode)) == (f"printed by {verb}\n", "0o100644")


def test_an_unknown_extra_is_refused_before_anything_is_installed(tmp_path: Path) -> None:
    done, call = install(tmp_path, "lab labs")
    assert (done.returncode, call) == (1, "")
    assert done.stderr == "install: there is no extra labs\nhint: the extras are lab, scale, web and gpl-codecs\n"
    assert not (tmp_path / "root").exists()


def test_without_packages_it_says_so_in_one_line_before_the_first_download(tmp_path: Path) -> None:
    done, call = install(tmp_path, "", status=1)
    assert done.returncode == 1
    assert "--dry-run" in call  # the only call
    message, hint = done.stderr.splitlines()
    assert message == "install: pip finds no packages: no internet, and no folder of wheels"
    assert "PIP_NO_INDEX=1 PIP_FIND_LINKS=" in hint


def test_the_script_is_valid_shell() -> None:
    subprocess.run(["sh", "-n", INSTALL], check=True, timeout=60)
