"""The installed service: installed by the documented script in a booted systemd, with its sandbox active.

All tests share one machine, in order; each leaves the service running. The archive is DCMTK's storescp on its network.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.errors import InvalidDicomError

from adapters.dicom.sr.document import SR_CLASS_UIDS
from tests.builders.acceptance_films import write_film
from tests.builders.machine import ROOT, SOURCE, Machine, inside, is_prepared, until

PORT = 11112
WATCHDOG_SECONDS = 12
SETTINGS = {
    "calling_ae_titles": '["ORTHANC", "STORESCU"]',
    "min_free": '"64MiB"',
    "stable_age_seconds": "0.5",
    "batch_size": "2",
    "threads": "1",
    "retry_cap_seconds": "3",
    "circuit_open_seconds": "1",
    "silent_share": "0.0",
}
NEEDED = ("systemd-nspawn", "debootstrap", "nsenter", "storescp", "storescu")

pytestmark = [
    pytest.mark.systemd,
    pytest.mark.timeout(900),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root boots a container"),
    pytest.mark.skipif(not all(map(shutil.which, NEEDED)), reason=f"needs {', '.join(NEEDED)}"),
    pytest.mark.skipif(not is_prepared(), reason="needs its root: python -m tests.builders.machine (make test-systemd)"),
]


class Hospital:
    """The machine with radclipd, an archive and a scanner."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.kept = folder / "archive"
        self.kept.mkdir()
        self.machine = Machine(folder)
        self.archive: subprocess.Popen[bytes] | None = None
        self.films = 0

    def install(self) -> None:
        """Follow deploy/docs/install.md up to `systemctl start`."""
        inside(self.machine.root, f"{SOURCE}/deploy/install.sh")
        configuration = (ROOT / "deploy" / "radclipd.toml").read_text()
        for key, value in SETTINGS.items():
            configuration, changed = re.subn(rf"^{key} = .*$", f"{key} = {value}", configuration, flags=re.MULTILINE)
            assert changed == 1, key
        self.machine.write("/etc/radclipd/radclipd.toml", configuration)
        inside(self.machine.root, "runuser -u radclipd -- radclipd model untrained --serve")
        for unit in ("radclipd", "radclipd-listener"):
            self.machine.write(f"/etc/systemd/system/{unit}.service.d/test.conf", f"[Service]\nWatchdogSec={WATCHDOG_SECONDS}\n")

    def boot(self) -> None:
        self.machine.boot()
        self.open_archive()

    def open_archive(self) -> None:
        """Start the archive on the machine's network, which is a new one after each boot."""
        argv: list[str | Path] = ["storescp", "--aetitle", "ORTHANC", "--fork", "--unique-filenames", "-od", self.kept, "4242"]
        self.archive = subprocess.Popen(self.machine.on_its_network(argv), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def close_archive(self) -> None:
        if self.archive is not None:
            self.archive.kill()
            self.archive.wait(10)

    def new_films(self, count: int) -> dict[str, Path]:
        """Return StudyInstanceUID -> file of that many new studies."""
        films = {}
        for _ in range(count):
            self.films += 1
            path = self.folder / f"film{self.films}.dcm"
            films[write_film(path, self.films)] = path
        return films

    def send(self, files: Sequence[Path]) -> subprocess.CompletedProcess[str]:
        """Send over one association like a scanner, with a long timeout."""
        argv: list[str | Path] = [
            "storescu",
            "-v",
            "-to",
            "90",
            "-ta",
            "90",
            "-td",
            "90",
            "-aec",
            "RADCLIPD",
            "127.0.0.1",
            str(PORT),
            *files,
        ]
        return subprocess.run(self.machine.on_its_network(argv), capture_output=True, text=True, timeout=200)

    def reports(self) -> list[str]:
        """Return the StudyInstanceUID of each SR that the archive has, one entry a SOP Instance UID."""
        found: dict[str, str] = {}
        for path in self.kept.iterdir():
            with contextlib.suppress(InvalidDicomError, EOFError):  # one that is being written
                kept = dcmread(path, specific_tags=["SOPClassUID", "SOPInstanceUID", "StudyInstanceUID"])
                is_report = kept.get("SOPClassUID") in SR_CLASS_UIDS.values()  # not the text beside it
                found |= {str(kept.SOPInstanceUID): str(kept.StudyInstanceUID)} if is_report else {}
        return list(found.values())

    def await_reports(self, studies: Sequence[str], *, seconds: float = 120) -> None:
        until(lambda: set(studies) <= set(self.reports()), seconds=seconds, what=f"{len(studies)} SRs", explain=self.explain)

    def explain(self) -> str:
        """Return the daemon's status of its work."""
        words = "runuser -u radclipd -- radclipd"
        return self.machine.run(f"{words} studies; {words} jobs list; {words} reports list", check=False) + self.machine.journal()

    def round_trip(self) -> None:
        """Send one study and wait for its SR in the archive."""
        films = self.new_films(1)
        sent = self.send(list(films.values()))
        assert sent.returncode == 0, sent.stderr
        self.await_reports(list(films))

    def query(self, sql: str) -> list[dict[str, object]]:
        rows = json.loads(self.machine.run(f'runuser -u radclipd -- radclipd query --json "{sql}"'))
        assert isinstance(rows, list)
        return rows

    def property(self, unit: str, name: str) -> str:
        return self.machine.run(f"systemctl show --value --property={name} {unit}")

    def listener(self) -> int:
        """Return the listener's process id on this host, once there is one."""
        return until(lambda: self.machine.processes("adapters.cli", "listen"), seconds=60, what="a listener")[0]


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hospital]:
    hospital = Hospital(tmp_path_factory.mktemp("machine"))
    try:
        hospital.install()
        hospital.boot()
        yield hospital
    finally:
        hospital.close_archive()
        hospital.machine.end()


def test_the_documented_installation_starts_and_passes_every_check(hospital: Hospital) -> None:
    hospital.machine.run("systemctl enable --now radclipd.socket radclipd.service")
    assert hospital.property("radclipd.service", "ActiveState") == "active"
    assert "model 1" in until(lambda: hospital.property("radclipd.service", "StatusText"), seconds=20, what="a status line")
    for check in ("radclipd check", "runuser -u radclipd -- radclipd check"):  # root works as the owner of the store
        verdicts = hospital.machine.run(check).splitlines()
        assert len(verdicts) > 3
        assert all(line.startswith("ok") for line in verdicts)
    assert hospital.machine.run("find /var/lib/radclipd -not -user radclipd") == ""


def test_a_study_results_in_a_report(hospital: Hospital) -> None:
    hospital.round_trip()


def test_the_systemd_sandbox_is_active(hospital: Hospital) -> None:
    for role in (["listen"], ["dispatch"], ["work", "score"], ["work", "report"], ["work", "label"]):
        process, *guards = hospital.machine.processes("adapters.cli", *role)
        assert len(guards) == (role[0] == "work")  # a worker's overrun guard is a copy of it
        status = dict(re.findall(r"^(\w+):\s+(.*)$", Path(f"/proc/{process}/status").read_text(), re.MULTILINE))
        assert status["NoNewPrivs"] == "1"
        assert status["Seccomp"] == "2"
        assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0
        libraries = Path(f"/proc/{process}/maps").read_text()
        assert ("libtorch" in libraries) == (role == ["work", "score"])


def test_no_line_of_the_journal_names_a_patient(hospital: Hospital) -> None:
    hospital.round_trip()
    journal = hospital.machine.run("journalctl --no-pager --boot --unit=radclipd.service --output=cat")
    assert "child started" in journal
    assert not re.search(r"TEST\^|\bT\d+\b|19700101", journal)


def test_a_killed_child_is_restarted(hospital: Hospital) -> None:
    before, restarts = hospital.listener(), hospital.property("radclipd.service", "NRestarts")
    os.kill(before, signal.SIGKILL)
    until(lambda: before not in hospital.machine.processes("adapters.cli", "listen"), seconds=20, what="its end")
    hospital.round_trip()
    assert hospital.listener() != before
    assert hospital.property("radclipd.service", "NRestarts") == restarts


def test_a_hanging_listener_is_ended_by_the_watchdog(hospital: Hospital) -> None:
    before, restarts = hospital.listener(), int(hospital.property("radclipd.service", "NRestarts"))
    os.kill(before, signal.SIGSTOP)
    until(
        lambda: int(hospital.property("radclipd.service", "NRestarts")) > restarts,
        seconds=6 * WATCHDOG_SECONDS,
        what="a restart by the watchdog",
    )
    assert not Path(f"/proc/{before}").exists()
    assert "Watchdog timeout" in hospital.machine.run("journalctl --no-pager --boot --unit=radclipd.service --output=cat")
    hospital.round_trip()


def test_a_reload_applies_a_valid_configuration_and_ignores_an_invalid_one(hospital: Hospital) -> None:
    path = "/etc/radclipd/radclipd.toml"
    good = (hospital.machine.root / path.lstrip("/")).read_text()
    before = hospital.listener()
    hospital.machine.write(path, good.replace("stable_age_seconds", "stable_age_secconds"))
    assert hospital.machine.run("systemctl reload radclipd.service || echo refused") == "refused"
    assert "did you mean study.stable_age_seconds" in hospital.machine.journal()
    hospital.machine.run("systemctl kill --kill-whom=main --signal=HUP radclipd.service")
    until(lambda: "reload refused" in hospital.property("radclipd.service", "StatusText"), seconds=20, what="the refusal")
    assert hospital.property("radclipd.service", "ActiveState") == "active"
    assert hospital.listener() == before
    hospital.machine.write(path, good.replace('level = "info"', 'level = "debug"'))
    hospital.machine.run("systemctl reload radclipd.service")
    until(lambda: before not in hospital.machine.processes("adapters.cli", "listen"), seconds=60, what="a new listener")
    hospital.round_trip()
    hospital.machine.write(path, good)


def test_a_restart_under_traffic_refuses_no_association(hospital: Hospital) -> None:
    films = hospital.new_films(12)
    failures: list[str] = []
    sent = 0
    over = threading.Event()

    def sender(path: Path) -> None:
        nonlocal sent
        while not over.is_set():  # the same file again is a duplicate, answered with Success
            attempt = hospital.send([path])
            sent += 1
            if attempt.returncode:
                failures.append(attempt.stderr[-500:])

    threads = [threading.Thread(target=sender, args=(path,)) for path in list(films.values())[:3]]
    for thread in threads:
        thread.start()
    for _ in range(2):
        before = sent
        until(lambda before=before: sent > before + 5, seconds=60, what="traffic")  # type: ignore[misc] # bound at once
        hospital.machine.run("systemctl restart radclipd.service")
    over.set()
    for thread in threads:
        thread.join(200)
    assert failures == []
    assert hospital.send(list(films.values())).returncode == 0
    hospital.await_reports(list(films))


def test_a_stop_during_work_neither_loses_nor_repeats_a_report(hospital: Hospital) -> None:
    films = hospital.new_films(20)
    assert hospital.send(list(films.values())).returncode == 0
    until(lambda: hospital.query("select id from v_jobs where state = 'running'"), seconds=30, what="a job in hand")
    hospital.machine.run("systemctl stop radclipd.socket radclipd.service")
    assert hospital.property("radclipd.service", "Result") == "success"
    assert hospital.machine.processes("adapters.cli") == []
    states = [row["state"] for row in hospital.query("select state from v_jobs")]
    assert "waiting" in states, "nothing was left to do: the stop came too late to show anything"
    assert "running" not in states, "a job was neither finished nor handed back"
    assert len(hospital.reports()) < hospital.films
    hospital.machine.run("systemctl start radclipd.socket radclipd.service")
    hospital.await_reports(list(films))
    time.sleep(3)
    reports = hospital.reports()
    assert all(reports.count(study) == 1 for study in films)
    assert hospital.query("select id from v_jobs where state = 'quarantined'") == []


def test_the_service_resumes_after_a_reboot(hospital: Hospital) -> None:
    films = hospital.new_films(5)
    assert hospital.send(list(films.values())).returncode == 0
    hospital.close_archive()
    hospital.machine.reboot()
    hospital.open_archive()
    until(lambda: hospital.property("radclipd.service", "ActiveState") == "active", seconds=90, what="the service")
    hospital.await_reports(list(films))
    hospital.round_trip()


def test_the_split_deployment_works_in_its_sandboxes(hospital: Hospital) -> None:
    roles = [f"radclipd-{role}.service" for role in ("listener", "dispatcher", "scorer", "learner", "reporter", "labeller")]
    hospital.machine.run("systemctl disable --now radclipd.socket radclipd.service")
    hospital.machine.run("systemctl enable --now radclipd.target")
    until(lambda: all(hospital.property(role, "ActiveState") == "active" for role in roles), seconds=120, what="all five roles")
    hospital.round_trip()
    os.kill(hospital.machine.processes("listen")[0], signal.SIGSTOP)
    until(lambda: int(hospital.property(roles[0], "NRestarts")) > 0, seconds=6 * WATCHDOG_SECONDS, what="a restart by the watchdog")
    hospital.round_trip()
    hospital.machine.run(f"systemctl restart {' '.join(roles)}")
    hospital.round_trip()
    assert all(hospital.property(role, "ActiveState") == "active" for role in roles)
