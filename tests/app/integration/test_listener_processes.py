"""`radclipd listen` in several processes: one port, one association limit, restarts, and a stop that drains all of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from pynetdicom.association import Association

from adapters.app.listen import open_sockets
from adapters.app.run import _load_with_same_tls_port
from adapters.config.sections import Config
from adapters.dicom.network.archive import ArchiveSettings, DicomArchive
from adapters.ipc.slots import SharedSlots
from adapters.service import systemd
from pipeline.errors import ArchiveUnreachable, ConfigurationError
from tests.builders.certificates import CertificateAuthority, IssuedFiles
from tests.builders.dicom_files import dx, file_of
from tests.builders.installation import Installation, free_port, kill
from tests.builders.reception import associate, send, wait_for, with_meta


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Installation]:
    made = Installation(tmp_path, listener={"processes": 2, "max_associations": 1})
    made.run("db", "upgrade")
    yield made


def members(parent: int) -> set[int]:
    """Return the listener processes: children of the supervisor between."""
    return {grandchild for child in children(parent) for grandchild in children(child)}


def children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def test_several_processes_share_port_and_association_limit_and_drain_at_a_stop(place: Installation) -> None:
    with place.running("listen") as process:
        wait_for(lambda: len(members(process.pid)) == 2, 20)
        before = members(process.pid)
        first = associate(place.port)
        assert first.send_c_store(with_meta(dx())).Status == 0
        others: list[Association] = []
        waiting = [threading.Thread(target=lambda: others.append(associate(place.port))) for _ in range(1)]
        waiting[0].start()
        waiting[0].join(1)
        assert not others  # the limit is one for both processes together
        first.release()
        waiting[0].join(20)
        assert others[0].is_established
        others[0].release()

        kill(min(before))
        wait_for(lambda: len(members(process.pid)) == 2 and members(process.pid) != before, 20)
        assert [send(place.port, dx()).Status for _ in range(4)] == [0] * 4

        last = associate(place.port)
        process.send_signal(signal.SIGTERM)
        assert last.send_c_store(with_meta(dx())).Status == 0  # a stop lets it end
        last.release()
        assert process.wait(30) == 0
        assert not any(Path(f"/proc/{pid}").exists() for pid in before)
    assert len(place.rows("SELECT * FROM v_studies")) == 6


def test_several_processes_share_the_tls_port_and_refusals_stand_in_the_audit_table(tmp_path: Path) -> None:
    authority, foreign = CertificateAuthority(tmp_path), CertificateAuthority(tmp_path, "foreign")
    own, sender = authority.issue("radclipd.example"), authority.issue("orthanc.example")
    tls = {"certificate_file": str(own.certificate), "key_file": str(own.key), "ca_file": str(authority.ca_file)}
    place = Installation(tmp_path, listener={"processes": 2, "tls_port": (port := free_port()), "require_tls": True}, tls=tls)
    place.run("db", "upgrade")

    def store(files: IssuedFiles) -> None:
        settings = ArchiveSettings(ae_title="RADCLIPD", port=port, calling_ae_title="ORTHANC", timeout_seconds=5)
        DicomArchive(settings, authority.endpoint(files)).store(file_of(dx()))

    with place.running("listen"):
        for _ in range(4):
            store(sender)
        with pytest.raises(ArchiveUnreachable):
            store(foreign.issue("foreign.example"))
        own.replace_with(authority.issue("renewed.example", days=2.1))  # no process is started anew for it
        lines = place.run("check", check=False).stdout.splitlines()
        assert any(
            line.startswith("warn tls ") and f"over TLS on port {port}; certificate renewed.example" in line for line in lines
        )
    assert len(place.rows("SELECT * FROM v_studies")) == 4
    (refused,) = place.rows("SELECT * FROM v_audit WHERE action = 'association' AND outcome = 'refused'")
    assert "TLS: its certificate is not of an authority in tls.ca_file" in refused["detail"]


def test_a_passed_socket_at_the_tls_port_is_the_tls_port_and_missing_sockets_are_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, secure = free_port(), systemd.bind("127.0.0.1", 0)
    tls_port = secure.getsockname()[1]
    wanted = {"host": "127.0.0.1", "port": plain, "tls_port": tls_port}
    config = Config(listener=wanted)  # type: ignore[arg-type]  # pydantic makes the section
    monkeypatch.setenv(systemd.INHERITED_FDS, str(secure.detach()))
    for _ in range(2):  # passed, then bound
        sockets = open_sockets(config)
        assert [sock.getsockname()[1] for sock in sockets] == [plain, tls_port]
        for sock in sockets:
            sock.close()


def test_a_reload_does_not_turn_the_tls_port_into_one_without_tls(tmp_path: Path) -> None:
    before = Config(listener={"tls_port": 2762})  # type: ignore[arg-type]
    (tmp_path / "radclipd.toml").write_text("")
    with pytest.raises(ConfigurationError, match="no longer 2762"):
        _load_with_same_tls_port(tmp_path / "radclipd.toml", before)
    assert _load_with_same_tls_port(tmp_path / "radclipd.toml", Config()) == Config()


def test_all_processes_die_with_the_parent(place: Installation) -> None:
    process = place.start("listen")
    try:
        wait_for(lambda: len(members(process.pid)) == 2, 30)
        family = [*children(process.pid), *members(process.pid)]
    finally:
        process.kill()
        process.wait()
    wait_for(lambda: not any(_runs(pid) for pid in family), 10)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


HOLDER = "import sys; from pathlib import Path; from adapters.ipc.slots import SharedSlots\n"
HOLDER += "slots = SharedSlots(Path(sys.argv[1]), 2); print(slots.acquire('b'), flush=True); sys.stdin.read()"


def test_slots_are_shared_and_released_when_their_holder_dies(tmp_path: Path) -> None:
    ours = SharedSlots(tmp_path / "slots", 2)
    assert ours.acquire("a") == 0
    other = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "slots")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=dict(os.environ),
    )
    with other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"1\n"
        assert ours.acquire("a") is None
        assert ours.owners() == ["a", "b"]
        other.kill()
    assert ours.owners() == ["a"]
    assert ours.acquire("a") == 1
    ours.release(0)
    assert ours.acquire("a") == 0
