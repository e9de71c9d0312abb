"""`radclipd demo`, the real verb: success, failure and Ctrl-C leave no process behind. Mostly with a tiny encoder."""

from __future__ import annotations

import contextlib
import csv
import math
import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from sklearn.metrics import roc_auc_score

from adapters.demo import orthanc
from adapters.dicom.sr.document import SR_CLASS_UIDS
from models.demo import NOTICE
from pipeline.domain import FINDINGS
from pipeline.rules import OWN_MODEL_NAME
from tests.builders import nih_folder, peers, tiny
from tests.builders.shipped import shipped
from tests.readme import README, demo_lines, shape_of

ROOT = Path(__file__).parents[2]
OK = re.compile(
    r"^DEMO OK studies=(?P<studies>\d+) reports=(?P<reports>\d+) labelled=(?P<labelled>\d+)"
    r" zero_shot=(?P<before>-|[01]\.\d{3}) mean_auc=(?P<after>-|[01]\.\d{3}) seconds=\d+$"
)


@dataclass(frozen=True)
class Ended:
    """Content of the last line; NaN for an undefined value."""

    studies: int
    reports: int
    labelled: int
    before: float
    after: float


class DemoRun:
    """A running demonstration with its output."""

    def __init__(self, folder: Path, *words: str, encoder: str | None = None) -> None:
        """`encoder`: untrained architecture; a tiny one by default, the shipped encoder where empty."""
        folder.mkdir(exist_ok=True)
        self.folder = folder / "demo"
        architecture = str(tiny.config_file(folder)) if encoder is None else encoder
        command = [sys.executable, "-m", "adapters.cli", "demo", "--folder", str(self.folder), "--architecture", architecture]
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [*command, *words],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"PYTHONUNBUFFERED": "1", "PYTHONPATH": str(ROOT)},
            start_new_session=True,  # the session identifies its processes, and a Ctrl-C can be sent to all of them
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout:
            self.lines += (line.rstrip() for line in self.process.stdout)

    def until(self, words: str, patience: float = 120) -> None:
        deadline = time.monotonic() + patience
        while not any(words in line for line in self.lines):
            assert time.monotonic() < deadline, "\n".join(self.lines)
            assert self.process.poll() is None, "\n".join(self.lines)
            time.sleep(0.05)

    def end(self) -> tuple[int, str]:
        """Wait for the end; return the exit status and the last line."""
        code = self.process.wait(480)
        self._reader.join(10)
        return code, self.lines[-1]

    def still_running(self) -> list[str]:
        """Command lines of processes of the demonstration's session, or that name its folder."""
        found = []
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
                session = os.getsid(int(entry.parent.name))
            except OSError:
                continue
            if str(self.folder) in words or (session == self.process.pid and words):  # a zombie has no command line
                found.append(words)
        return found

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    @property
    def truth(self) -> dict[str, tuple[str, set[str]]]:
        """Return study -> patient and findings, from the truth table of the demonstration."""
        with (self.folder / "truth.csv").open() as file:
            rows = list(csv.DictReader(file))
        return {row["StudyInstanceUID"]: (row["Patient ID"], set(row["Finding Labels"].split("|"))) for row in rows}

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """Query the database, which outlives the demonstration."""
        with contextlib.closing(sqlite3.connect(self.folder / "radclipd" / "radclipd.db")) as database:
            return database.execute(sql).fetchall()

    def recomputed(self, view: str = "v_predictions") -> float:
        """Return the mean AUC by scikit-learn from database and truth, on patients without labelled studies."""
        truth = self.truth
        labelled = {truth[study][0] for (study,) in self.rows("SELECT study_instance_uid FROM v_labels")}
        rows = self.rows(f"SELECT finding, study_instance_uid, score FROM {view}")
        areas = []
        for finding in {finding for finding, _, _ in rows}:
            scored = [
                (finding in truth[study][1], score)
                for one, study, score in rows
                if one == finding and truth[study][0] not in labelled
            ]
            if len({shown for shown, _ in scored}) == 2:
                areas.append(float(roc_auc_score(*zip(*scored, strict=True))))
        return sum(areas) / len(areas) if areas else math.nan


@pytest.mark.orthanc
def test_orthanc_forwards_films_receives_reports_and_runs_until_ctrl_c(tmp_path: Path) -> None:
    if orthanc.find_program() is None:
        peers.absent("Orthanc is not installed (Debian package orthanc)")
    run = DemoRun(tmp_path, "--studies", "5", "--seed", "2", "--hold")
    run.until("Ctrl-C ends it", patience=240)
    assert run.still_running()
    run.process.send_signal(signal.SIGINT)
    code, last = run.end()
    assert code == 0, run.text
    end = ended(last)
    assert (end.studies, end.reports, end.labelled) == (5, 4, 1)
    assert end.before == end.after == about(run.recomputed())
    assert "Orthanc, AE title ORTHANC" in run.text
    assert "UNTRAINED" in run.text
    assert "study 4: ignored (not the chest (1))" in run.text
    assert "... and 1 studies more" in run.text
    assert "Comprehensive 3D SR" in run.text
    assert "pleural_thickening" in run.text
    assert "it was forwarded, and read: 14 labels" in run.text
    assert "nothing to learn" in run.text
    assert run.still_running() == []


@shipped
def test_the_shipped_encoder_is_measured_against_the_hidden_truth(tmp_path: Path) -> None:
    run = DemoRun(tmp_path, "--studies", "12", "--embedded", encoder="")
    code, last = run.end()
    assert code == 0, run.text
    end = ended(last)
    assert (end.studies, end.reports, end.labelled) == (12, 11, 4)
    assert end.before == end.after == about(run.recomputed())
    assert f"AUC against the hidden truth ({NOTICE})" in run.text
    assert "patients, none of them labelled" in run.text
    assert next(line for line in run.lines if "mean of" in line).split()[-1] == f"{end.after:.3f}"
    with Image.open(run.folder / "outcome.png") as plot:
        assert min(plot.size) > 500
    assert f"plot            {run.folder / 'outcome.png'}" in run.text
    assert run.still_running() == []


def ended(last: str) -> Ended:
    found = OK.match(last)
    assert found, last
    counts = [int(found[name]) for name in ("studies", "reports", "labelled")]
    return Ended(*counts, *(float(found[name].replace("-", "nan")) for name in ("before", "after")))


def about(value: float) -> Any:
    return pytest.approx(value, abs=0.0005, nan_ok=True)


def test_pictures_of_a_folder_are_sent_by_the_embedded_archive(tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(2):
        grey = np.random.default_rng(number).integers(0, 255, (80, 80), dtype=np.uint8)
        Image.fromarray(grey).save(pictures / f"0000000{number}_000.png")
    (pictures / "notes.txt").write_text("no film")
    run = DemoRun(tmp_path, "--embedded", "--images", str(pictures))
    code, last = run.end()
    assert code == 0, run.text
    end = ended(last)
    assert (end.studies, end.reports, end.labelled) == (2, 2, 0)
    assert math.isnan(end.after)
    assert "Nobody can play the radiologist" in run.text
    assert "No table and no plot: nothing says what these films really show (put labels.csv" in run.text
    assert not (run.folder / "outcome.png").exists()
    assert "EMBEDDED" in run.lines[1]
    assert any("left out: notes.txt" in line for line in run.lines)
    assert run.still_running() == []


@pytest.mark.timeout(600)
def test_films_with_a_label_table_are_labelled_learnt_rescored_and_evaluated(tmp_path: Path) -> None:
    """A random encoder separates squares that no prompt describes: the learnt version must win."""
    folder = nih_folder.collection(tmp_path / "nih", 60, show=lambda number: [["Effusion"], ["Mass"], ["Effusion"], []][number % 4])
    run = DemoRun(tmp_path, "--embedded", "--images", str(folder), "--studies", "60")
    code, last = run.end()
    assert code == 0, run.text
    end = ended(last)
    assert (end.studies, end.reports, end.labelled) == (60, 60, 20)
    assert "films of the folder nih" in run.text
    assert "AUC against the hidden truth (UNTRAINED)" in run.text
    assert "radclipd learn: promoted (version 2)" in run.text
    check_reader_labels(run)
    assert end.after == about(run.recomputed())
    assert end.before == about(run.recomputed("(SELECT * FROM predictions p JOIN studies s ON s.id = p.study WHERE p.version = 1)"))
    assert end.after > end.before
    _, before, after, gain = re.findall(r"[+-]?\d\.\d{3}|mean of \d+", next(line for line in run.lines if "mean of" in line))[:4]
    assert (float(before), float(after)) == (end.before, end.after)
    assert float(gain) == pytest.approx(end.after - end.before, abs=0.0011)  # each is rounded
    check_predecessors(run)
    check_readme(run)
    assert run.still_running() == []


def check_readme(run: DemoRun) -> None:
    """Check that the run prints each line of README from the labelling on: with other numbers, and other findings in its table."""
    printed = {shape_of(line) for line in run.lines}
    lines = demo_lines(README.read_text())
    labelling = lines.index("10. A radiologist reads a few studies")
    shown = [line for line in lines[labelling:] if re.match(r"\d+\. |  \S", line)]
    assert len(shown) > 15
    assert [line for line in shown if shape_of(line) not in printed] == []


def check_reader_labels(run: DemoRun) -> None:
    """Check the labels: both sources, the printed number, and the printed error rate."""
    truth = run.truth
    labels = run.rows("SELECT study_instance_uid, finding, state, source, selection_reason FROM v_labels WHERE revoked = 0")
    assert Counter(source for _, _, _, source, _ in labels) == {"csv": 19 * len(FINDINGS), "sr": len(FINDINGS)}
    assert {because for _, _, _, _, because in labels} <= {"positives", "coverage", "disagreement", "uncertainty", "monitoring"}
    wrong = sum((state == "present") != (finding in truth[study][1]) for study, finding, state, _, _ in labels)
    assert f"20 of 60 studies were read: 280 statements, of which {wrong} (" in run.text


def check_predecessors(run: DemoRun) -> None:
    """Check the predecessors in the files of the archive, not in the catalog."""
    held = [dcmread(path, stop_before_pixels=True) for path in (run.folder / "archive" / "storage").glob("*.dcm")]
    reports_held = (one for one in held if one.SOPClassUID in SR_CLASS_UIDS.values())  # not their visible objects
    ours = {one.SOPInstanceUID: one for one in reports_held if one.get("ManufacturerModelName") == OWN_MODEL_NAME}
    reports = run.rows("SELECT sop_instance_uid, version FROM v_reports")
    known = {uid for uid, _ in reports}
    followed = {
        uid: one.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID
        for uid, one in ours.items()
        if "PredecessorDocumentsSequence" in one and uid in known
    }
    assert {uid for uid, version in reports if version == 2} <= set(followed)
    assert known >= set(followed.values())
    assert all(ours[uid].StudyInstanceUID == ours[before].StudyInstanceUID for uid, before in followed.items())
    assert f"the archive holds {sum(version == 2 for _, version in reports)} SRs of version 2" in run.text
    assert "reference distribution 1: " in run.text
    assert run.text.count("radclipd show STUDY:") == 2
    assert "findings called per study" in run.text
    assert followed


@pytest.mark.parametrize("where", ["to it alone", "to all of its terminal"])
def test_an_interrupted_demonstration_cleans_up(where: str, tmp_path: Path) -> None:
    run = DemoRun(tmp_path, "--embedded", "--studies", "60")
    run.until("nobody was X-rayed")
    time.sleep(1.0)  # during the start of the rendering processes
    if where == "to it alone":
        run.process.send_signal(signal.SIGTERM)
    else:
        os.killpg(run.process.pid, signal.SIGINT)
    code, last = run.end()
    assert (code, last) == (1, "DEMO FAILED interrupted"), run.text
    assert "Traceback" not in run.text
    assert run.still_running() == []


def test_a_dead_daemon_fails_the_demonstration_and_its_log_is_shown(tmp_path: Path) -> None:
    run = DemoRun(tmp_path, "--embedded", "--studies", "9")
    run.until("Patients are X-rayed")
    pid = next(re.search(r"process (\d+)", line) for line in run.lines if "process " in line)
    assert pid is not None
    os.kill(int(pid.group(1)), signal.SIGKILL)
    code, last = run.end()
    assert code == 1
    assert last.startswith("DEMO FAILED ")
    assert any("log of the daemon" in line for line in run.lines)
    assert run.still_running() == []


def test_a_failed_verb_fails_the_demonstration(tmp_path: Path) -> None:
    run = DemoRun(tmp_path, "--embedded", encoder="ViT-none")
    code, last = run.end()
    assert code == 1
    assert last.startswith("DEMO FAILED radclipd model untrained")
    assert run.still_running() == []


def test_a_folder_that_is_not_empty_is_refused_and_unchanged(tmp_path: Path) -> None:
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "mine").write_text("precious")
    run = DemoRun(tmp_path)
    assert run.end()[0] == 1
    assert "hint: " in run.lines[-1]
    assert (tmp_path / "demo" / "mine").read_text() == "precious"
