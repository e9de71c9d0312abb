"""One run of the real daemon with people of four scripts, good and bad input: where identity stands, and whom the daemon calls."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from tests.builders.dicom_files import dx, sr
from tests.builders.guarded_sockets import guard_environment, read_refusals
from tests.builders.installation import Installation, free_port, reports_of, wait_for
from tests.builders.reception import associate, with_meta
from tests.builders.sql import rows

PEOPLE = {
    "japanese": (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう", "ID-JP-81", "19010203"),
    "korean": (["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동", "ID-KR-82", "19020304"),
    "cyrillic": ("ISO_IR 144", "Щербаков^Жюль", "ID-CY-83", "19030405"),
    "arabic": ("ISO_IR 127", "قباني^لنزار", "ID-AR-84", "19040506"),
}
"""Script -> character set, name, Patient ID, birth date ; some names are those of PS3.5 annexes H to K."""


def person_elements(script: str) -> dict[str, Any]:
    characters, name, patient_id, born = PEOPLE[script]
    return {
        "SpecificCharacterSet": characters,
        "PatientName": name,
        "PatientID": patient_id,
        "PatientBirthDate": born,
        "StudyDescription": "Chest",
        "OtherPatientIDs": f"OTHER-{patient_id}",
        "PatientComments": f"COMMENT-{patient_id}",
        "PatientAddress": f"STREET-{patient_id}",
    }


@dataclass
class Run:
    """A finished run: the installation, its reports by script, and what the daemon answered to a scrape and to verbs."""

    place: Installation
    films: dict[str, Dataset]
    reports: Mapping[str, Dataset]
    outputs: str
    refused: list[str]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, template: Installation) -> Iterator[Run]:
    folder, guard = tmp_path_factory.mktemp("run"), tmp_path_factory.mktemp("guard")
    metrics = free_port()
    place = Installation(
        folder, metrics={"enabled": True, "port": metrics}, log={"level": "debug"}, labels={"accept_sr": "person-or-verified"}
    )
    place.copy_of(template)
    films = {script: dx(**person_elements(script)) for script in PEOPLE}
    bad = [dx(**person_elements("arabic")) for _ in range(3)]
    bad[0].PixelData = bad[0].PixelData[:50]
    bad[1].Rows = bad[1].Columns = 60000
    bad[2].StudyInstanceUID = "not-a-uid"
    document = sr(**person_elements("korean"), StudyInstanceUID=films["korean"].StudyInstanceUID)
    peers = guard_environment(guard, [place.port, place.archive_port])
    with place.archive() as archive, place.running(environment=peers):
        place.forward(archive, *films.values())
        send_directly(place.port, *bad, document, changed_copy(films["japanese"]))
        associate(place.port, calling="STRANGER").abort()
        for film in films.values():
            wait_for(lambda uid=film.StudyInstanceUID: reports_of(archive, uid), 90, place.read_log)  # type: ignore[misc]
        verbs = (
            ["status", "--json"],
            ["audit", "list", "--json"],
            ["show", films["arabic"].StudyInstanceUID],
        )
        outputs = [place.run(*verb).stdout for verb in verbs]
        outputs.append(urllib.request.urlopen(f"http://127.0.0.1:{metrics}/metrics", timeout=10).read().decode())
        reports = {script: dcmread(reports_of(archive, film.StudyInstanceUID)[0]) for script, film in films.items()}
        wait_for(lambda: rows(place.url, "SELECT 1 FROM v_audit WHERE position IS NULL") == [], 20, place.read_log)
    yield Run(place, films, reports, "\n".join(outputs), read_refusals(guard))


def send_directly(port: int, *instances: Dataset) -> None:
    """Send instances of any kind; the daemon may refuse them."""
    association = associate(port, classes=tuple({str(one.SOPClassUID) for one in instances}))
    for one in instances:
        association.send_c_store(with_meta(one))
    association.release()


def changed_copy(film: Dataset) -> Dataset:
    """Return another film under the same SOP Instance UID."""
    copy = dx(**person_elements("japanese"), SOPInstanceUID=film.SOPInstanceUID, StudyInstanceUID=film.StudyInstanceUID)
    copy.PixelData = bytes(reversed(copy.PixelData))
    return copy


def find_words(words: list[str], content: bytes) -> set[str]:
    """Return those words that stand in the content, in any encoding that our films, JSON or a repr may have used."""
    encodings = ("utf-8", "iso2022_jp", "euc_kr", "iso8859_5", "iso8859_6", "utf-16-le", "unicode_escape")
    found = set()
    for word in words:
        spellings = set()
        for encoding in encodings:
            try:
                spellings.add(word.encode(encoding))
            except UnicodeEncodeError:
                continue
        if any(spelling in content for spelling in spellings):
            found.add(word)
    return found


NAMES = sorted(
    {part for _, name, _, _ in PEOPLE.values() for group in name.split("=") for part in group.split("^") if len(part) > 1}
)
"""Without single characters: two bytes stand by chance in the weights of a model."""
BIRTH_DATES = [born for *_, born in PEOPLE.values()]
PATIENT_IDS = [patient_id for _, _, patient_id, _ in PEOPLE.values()]
PRIVATE = [*NAMES, *BIRTH_DATES, *(f"{prefix}-{one}" for one in PATIENT_IDS for prefix in ("OTHER", "COMMENT", "STREET"))]


def test_identity_stands_in_the_image_store_and_the_patient_id_in_the_catalog_too(run: Run) -> None:
    """`deploy/docs/audit.md` lists the places."""
    found: dict[str, set[str]] = {}
    for path in run.place.folder.rglob("*"):
        if path.is_file() and run.place.folder / "archive" not in path.parents:  # the archive is the hospital's
            kind = path.relative_to(run.place.folder).parts[0].split(".db")[0]
            found.setdefault(kind, set()).update(find_words([*PRIVATE, *PATIENT_IDS], path.read_bytes()))
    assert {*NAMES, *BIRTH_DATES, *PATIENT_IDS} <= found.pop("images")
    assert found.pop("catalog") == set(PATIENT_IDS)
    assert {kind: words for kind, words in found.items() if words} == {}
    assert {"log", "models", "activations"} <= found.keys()


def test_no_verb_metric_or_log_line_names_a_patient(run: Run) -> None:
    log = run.place.read_log()
    assert '"level": "debug"' in log
    assert find_words([*PRIVATE, *PATIENT_IDS], log.encode()) == set()
    assert find_words([*PRIVATE, *PATIENT_IDS], run.outputs.encode()) == set()
    assert "radclipd_" in run.outputs


@pytest.mark.parametrize("script", PEOPLE)
def test_a_report_has_the_name_of_its_patient(run: Run, script: str) -> None:
    report, film = run.reports[script], run.films[script]
    groups = str(report.PatientName).split("=")
    assert groups[: len(str(film.PatientName).split("="))] == str(film.PatientName).split("=")
    assert (report.PatientID, report.PatientBirthDate) == (film.PatientID, film.PatientBirthDate)


def test_the_daemon_calls_its_archive_and_nobody_else(run: Run) -> None:
    assert run.refused == []


def test_the_guard_refuses_and_records(tmp_path: Path) -> None:
    """Without this the test above could not fail."""
    code = "import socket; socket.create_connection(('192.0.2.1', 80), 1)"
    ended = subprocess.run(
        [sys.executable, "-c", code], env=dict(guard_environment(tmp_path, [1])), capture_output=True, check=False, timeout=60
    )
    assert ended.returncode == 1
    assert read_refusals(tmp_path) == ["resolve 192.0.2.1"]


def test_the_audit_chain_of_the_run_holds_and_names_the_associations(run: Run) -> None:
    verdict = json.loads(run.place.run("audit", "verify", "--json").stdout)
    assert (verdict["holds"], verdict["unlinked"]) == (True, 0)
    told = "SELECT subject, patient_pseudonym FROM v_audit WHERE action = 'association' AND outcome = 'done'"
    pseudonym = {str(subject): str(one) for subject, one in rows(run.place.url, told)}
    ours = {pseudonym[film.StudyInstanceUID] for film in run.films.values()}
    assert (len(ours), {len(each) for each in ours}) == (len(PEOPLE), {32})
