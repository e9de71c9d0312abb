"""Verbs that root runs work as the owner of the store: what they leave there, the service can use."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from tests.builders import dicom_files, second_user, tiny
from tests.builders.installation import free_port

Run = Callable[..., subprocess.CompletedProcess[str]]


class Place:
    """An installation whose store belongs to the second user."""

    def __init__(self, folder: Path, python: str) -> None:
        self.folder, self.python, self.store = folder, python, folder / "var"
        self.images, self.config = self.store / "images", folder / "radclipd.toml"
        self.store.mkdir()
        shutil.chown(self.store, second_user.USER)
        self.config.write_text(
            f'[listener]\nhost = "127.0.0.1"\nport = {free_port()}\nprocesses = 1\n'
            f"[archive]\nport = {free_port()}\n"
            f'[storage]\ndirectory = "{self.images}"\nmin_free = "1MiB"\n'
            f'[catalog]\nurl = "sqlite:///{self.store}/radclipd.db"\n'
            f'[model]\ndirectory = "{self.store}/models"\n'
            f'[activation_cache]\ndirectory = "{self.store}/activations"\n'
            '[log]\nformat = "json"\n'
        )
        self.run: Run = second_user.radclipd_with(python, self.config)

    def foreign_paths(self) -> list[Path]:
        """Return what does not belong to the second user."""
        uid = pwd.getpwnam(second_user.USER).pw_uid
        return [path for path in [self.store, *self.store.rglob("*")] if path.lstat().st_uid != uid]

    def check_store(self) -> str:
        """Return the line of `radclipd check` on the image store, as root gets it: without torch."""
        code = (
            "import sys; from pathlib import Path; from adapters.app.compose import Parts; "
            "from adapters.cli import check, settings;"
            "from adapters.config import sections; config = sections.load(Path(sys.argv[1])); settings._leave_root(config);"
            "check._run_check(check.preflight_checks(None)[0], Parts(config))"
        )
        argv = [self.python, "-c", code, str(self.config)]
        done = subprocess.run(argv, cwd="/", env=second_user.environment(), capture_output=True, text=True, check=True, timeout=120)
        return done.stdout.strip()

    def write_image(self, content: str) -> subprocess.CompletedProcess[str]:
        """Write to the store as the service does."""
        code = (
            "import sys; from pathlib import Path; from adapters.storage.image_store import FileImageStore;"
            f"FileImageStore(Path({str(self.images)!r})).write({content!r}.encode())"
        )
        return second_user.run_as_user([self.python, "-c", code], cwd="/", env=second_user.environment(), timeout=60)


@pytest.fixture
def place() -> Iterator[Place]:
    python = second_user.find_interpreter()
    with tempfile.TemporaryDirectory(prefix="radclipd-") as folder:  # pytest's own folders are closed to the second user
        Path(folder).chmod(0o755)
        yield Place(Path(folder), python)


def test_whatever_root_runs_leaves_a_store_that_the_service_can_use(place: Place, tmp_path: Path) -> None:
    upgraded = place.run("db", "upgrade")
    assert upgraded.returncode == 0, upgraded.stderr
    assert upgraded.stderr.splitlines()[0] == f"radclipd: working as user nobody, the owner of {place.store}"
    network = Path(shutil.copy(tiny.config_file(tmp_path), place.folder / "tiny.json"))
    network.chmod(0o644)
    for verb in (
        ("model", "untrained", "--architecture", str(network)),
        ("check",),
        ("studies",),
        ("labels", "list"),
        ("versions", "list"),
    ):
        done = place.run(*verb)
        assert done.returncode == (1 if verb == ("check",) else 0), done.stderr  # no archive answers
        assert "Traceback" not in done.stdout + done.stderr
    assert place.foreign_paths() == []
    assert place.write_image("film").returncode == 0
    assert place.foreign_paths() == []


def test_a_backfill_that_root_runs_knows_an_instance_in_another_transfer_syntax(place: Place) -> None:
    place.run("db", "upgrade")
    film = dicom_files.dx()
    for syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian):
        folder = place.folder / syntax
        folder.mkdir()
        (folder / "film.dcm").write_bytes(dicom_files.file_of(film, syntax))
        done = place.run("backfill", "--folder", str(folder))
        assert done.returncode == 0, done.stderr
    assert "0 instances received (0.0 MB), 1 known already, 0 refused" in done.stdout


def test_root_writes_a_worklist_where_the_owner_of_the_store_may_not(place: Place, tmp_path: Path) -> None:
    place.run("db", "upgrade")
    table = tmp_path / "to-read.csv"
    done = place.run("worklist", "--open", "--csv", str(table))
    assert done.returncode == 0, done.stderr
    assert table.read_text().startswith("study_instance_uid,")


def test_a_check_leaves_nothing_behind(place: Place) -> None:
    place.run("db", "upgrade")
    before = sorted(place.store.rglob("*"))
    assert place.check_store().startswith("ok")
    assert sorted(path for path in place.store.rglob("*") if path.suffix not in (".db-wal", ".db-shm")) == before
    assert not place.images.exists()


def test_checks_at_once_do_not_disturb_each_other(place: Place) -> None:
    assert place.write_image("film").returncode == 0
    with ThreadPoolExecutor(4) as pool:
        lines = list(pool.map(lambda _: place.check_store(), range(4)))
    assert all(line.startswith("ok") for line in lines), lines


@pytest.mark.parametrize("where", ["arriving", "3f", "3f/aa", ""])
def test_a_folder_of_roots_in_the_store_is_found(place: Place, where: str) -> None:
    assert place.write_image("film").returncode == 0
    foreign = place.images / where
    foreign.mkdir(mode=0o750, exist_ok=True)
    os.chown(foreign, 0, 0)
    foreign.chmod(0o750)
    line = place.check_store()
    assert line.startswith("FAIL")
    assert f"{foreign} cannot be written by user nobody" in line
    assert f"chown -R nobody {place.images}" in line


def test_the_owner_is_the_catalogs_where_the_folder_of_images_is_roots(place: Place) -> None:
    """A disk mounted as root's below a store of the service."""
    place.run("db", "upgrade")
    place.images.mkdir(mode=0o755)
    line = place.check_store()
    assert line.startswith("FAIL")
    assert "cannot be written by user nobody" in line


def test_the_service_sees_a_store_that_it_cannot_write(place: Place) -> None:
    place.run("db", "upgrade")
    address = place.folder / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(address))
        address.chmod(0o777)
        systemd.settimeout(60)
        listener = subprocess.Popen(
            [place.python, "-m", "adapters.cli", "--config", str(place.config), "listen"],
            cwd="/",
            env={**second_user.environment(), "NOTIFY_SOCKET": str(address), "WATCHDOG_USEC": "4000000"},
            stderr=subprocess.DEVNULL,
        )
        try:
            _await_notification(systemd, "READY=1")
            assert place.write_image("film").returncode == 0
            os.chown(place.images / "arriving", 0, 0)
            (place.images / "arriving").chmod(0o750)
            status = _await_notification(systemd, "cannot be written by user nobody")
            assert "image store" in status
        finally:
            listener.terminate()
            listener.wait(30)


def _await_notification(systemd: socket.socket, word: str) -> str:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if word in (text := systemd.recv(4096).decode()):
            return text
    raise AssertionError(f"no notification holds {word}")


def test_a_configuration_that_only_root_can_read_is_refused(place: Place) -> None:
    """As the service would be: a check that passes as root would say well of a service that cannot start."""
    place.config.chmod(0o600)
    done = place.run("studies")
    assert done.returncode == 78
    assert "Permission denied" in done.stderr
    assert "the user that runs radclipd must be able to read it" in done.stderr


def test_a_user_who_is_not_root_stays_who_he_is(place: Place) -> None:
    done = place.run("db", "upgrade", as_user=True)
    assert done.returncode == 0, done.stderr
    assert "working as" not in done.stderr
    assert place.foreign_paths() == []
