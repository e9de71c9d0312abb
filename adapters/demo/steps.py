"""Steps of the demonstration in order, from an empty archive to the evaluation of the scores."""

from __future__ import annotations

import contextlib
import socket
import time
from collections import Counter
from collections.abc import Generator
from io import BytesIO

from pydicom import dcmread
from rich import box
from rich.table import Table

from adapters.catalog.views import finding_column
from adapters.datasets import film_folder
from adapters.datasets.truth_table import TRUTH_FILE, write_truth
from adapters.demo import evaluation
from adapters.demo.archives import open_archive
from adapters.demo.installation import DemoInstallation
from adapters.demo.loopback import LOOPBACK, free_ports
from adapters.demo.state import MAX_LISTED, DemoFailed, DemoState, SentStudy
from adapters.dicom.sr import text
from adapters.simulator import scanner
from adapters.simulator.sites import UNSEEN_SITE
from pipeline.domain import FINDINGS, StudyState

FINAL_STATES = {StudyState.REPORTED.value, StudyState.IGNORED.value}
PORT_TIMEOUT_SECONDS = 120.0
"""Time limit for the daemon to open its port."""
STALL_TIMEOUT_SECONDS = 240.0
"""Time limit without a change of any study. A slow machine still makes progress."""
POLL_SECONDS = 0.5
PHANTOM_EDGE_PIXELS = 512
"""Edge of a phantom film, pixels."""
RENDERING_PROCESSES = 2
"""Processes that render films."""
HOSPITAL_REFERENCE_STUDIES = 200
"""Studies that a hospital needs before findings are told as ranks; a small demonstration needs half of its own."""
SHOWN_STUDIES = 7
"""Studies in the table of findings: limited by the width of a terminal."""
ZERO_SHOT = "zero-shot"
PLOT_FILE = "outcome.png"

Examinations = Generator[scanner.Examination, None, None]


def start_archive(demo: DemoState) -> None:
    """Start the hospital's archive, which forwards radiographs to radclipd."""
    [demo.radclipd_port] = free_ports(1)
    demo.archive, what = open_archive(demo.folder / "archive", radclipd_port=demo.radclipd_port, embedded=demo.options.embedded)
    demo.print_line(f"{what}, AE title {demo.archive.ae_title}, DICOM port {demo.archive.port}: {demo.archive.location}")


def install_radclipd(demo: DemoState) -> None:
    """Write a configuration and create the database."""
    demo.radclipd = DemoInstallation(
        demo.folder / "radclipd",
        port=demo.radclipd_port,
        archive_ae_title=demo.hospital_archive.ae_title,
        archive_port=demo.hospital_archive.port,
        min_reference_studies=max(1, min(HOSPITAL_REFERENCE_STUDIES, _count_expected_studies(demo) // 2)),
    )
    demo.print_line(f"configuration: {demo.radclipd.configuration}")
    demo.print_line(f"radclipd db upgrade: {demo.radclipd.run_verb('db', 'upgrade') or 'done'}")


def _count_expected_studies(demo: DemoState) -> int:
    """Return the number of studies to come; of a folder, at most that of its files, each of which may be a study."""
    folder = demo.options.images
    files = sum(path.is_file() for path in folder.rglob("*")) if folder is not None and folder.is_dir() else demo.options.studies
    return min(files, demo.options.studies)


def import_model(demo: DemoState) -> None:
    """Import the shipped encoder or, where an architecture is given, untrained weights of it."""
    if demo.options.architecture:
        _import_untrained_weights(demo)
        return
    with demo.console.status("importing the encoder that is shipped"):
        imported = demo.installation.run_verb("model", "demo")
    demo.print_line(f"radclipd model demo: {imported}")
    demo.print_line(
        "A small CLIP, trained on phantom films of other hospitals. It has never seen a patient, nor a film of this hospital."
    )


def _import_untrained_weights(demo: DemoState) -> None:
    with demo.console.status(f"drawing the random numbers of {demo.options.architecture}"):
        made = demo.installation.run_verb("model", "untrained", "--architecture", demo.options.architecture, "--seed", "0")
    demo.print_line(f"radclipd model untrained: {made}")
    demo.print_line("These weights are UNTRAINED: random numbers. Every score below is meaningless; only the way is real.")


def start_daemon(demo: DemoState) -> None:
    """Start the daemon and a second report worker: building reports takes longest, and two processors are expected."""
    demo.installation.start()
    demo.print_line(f"radclipd run: AE title RADCLIPD, port {demo.radclipd_port}, process {demo.installation.pid}")
    deadline = time.monotonic() + PORT_TIMEOUT_SECONDS
    while not _is_port_open(demo.radclipd_port):
        demo.installation.require_alive()
        if time.monotonic() > deadline:
            raise DemoFailed("radclipd did not open its port")
        time.sleep(0.1)
    demo.print_line(f"radclipd work report: one more worker beside it, process {demo.installation.start_worker('report')}")


def _is_port_open(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((LOOPBACK, port), timeout=1):
        return True
    return False


def send_studies(demo: DemoState) -> None:
    """Render phantom films, or read the films of a folder, and store each study in the archive, which forwards it."""
    examinations, total = _read_film_folder(demo) if demo.options.images else _render_phantoms(demo)
    films = 0
    with contextlib.closing(examinations), demo.progress_bar(total) as show:
        for number, examination in enumerate(examinations, 1):
            demo.hospital_archive.store_study(
                examination.study_instance_uid, [instance.content for instance in examination.instances]
            )
            films += len(examination.instances)
            demo.sent_studies.append(SentStudy(number, examination.study_instance_uid, examination.title, examination.truth))
            show(number, "stored in the archive")
    demo.print_first_lines([f"study {sent.number}: {sent.title}" for sent in demo.sent_studies], "studies")
    demo.print_line(f"{films} films of {len(demo.sent_studies)} studies are in the archive, which forwards them to radclipd")
    if demo.truths:
        write_truth(demo.folder / TRUTH_FILE, demo.truths)


def _render_phantoms(demo: DemoState) -> tuple[Examinations, int]:
    demo.films_description = f"phantom films of the hospital '{UNSEEN_SITE}', enriched in findings"
    demo.print_line(f"{demo.films_description}: nobody was X-rayed for this.")
    demo.print_line(
        f"One study in {round(1 / scanner.NATURAL_SHARE)} comes as it would at a hospital, from patients who come again;"
    )
    demo.print_line(
        "the others are chosen so that every finding is there often enough to be measured: prevalences are no hospital's."
    )
    orders = scanner.enriched_orders(UNSEEN_SITE, demo.options.studies, seed=demo.options.seed)
    return scanner.take_studies(orders, size=(PHANTOM_EDGE_PIXELS, PHANTOM_EDGE_PIXELS), workers=RENDERING_PROCESSES), len(orders)


def _read_film_folder(demo: DemoState) -> tuple[Examinations, int]:
    assert demo.options.images is not None
    found, skipped = film_folder.read_film_folder(demo.options.images, limit=demo.options.studies)
    demo.films_description = f"films of the folder {demo.options.images.absolute().name}"
    demo.print_line(demo.films_description)
    demo.print_first_lines([f"left out: {left.path.name}: {left.reason}" for left in skipped], "files left out")
    return (examination for examination in found), len(found)


def wait_for_reports(demo: DemoState) -> None:
    """Wait until every study is reported or ignored, printing each change."""
    last_change, printed = time.monotonic(), 0
    with demo.progress_bar(len(demo.sent_studies)) as show:
        while len(_finished_studies(demo)) < len(demo.sent_studies):
            demo.installation.require_alive()
            raise_if_quarantined(demo)
            if news := _update_study_states(demo):
                last_change = time.monotonic()
                printed += _print_finished_studies(demo, news, printed)
            elif time.monotonic() > last_change + STALL_TIMEOUT_SECONDS:
                raise DemoFailed(f"only {len(_finished_studies(demo))} of {len(demo.sent_studies)} studies came to an end")
            counts = Counter(state for state, _ in demo.study_states.values())
            show(
                len(_finished_studies(demo)),
                ", ".join(f"{count} {state}" for state, count in sorted(counts.items())) or "on their way",
            )
            time.sleep(POLL_SECONDS)
    if len(demo.sent_studies) > MAX_LISTED:
        ends = Counter(state + (f" ({reason})" if reason else "") for state, reason in demo.study_states.values())
        demo.print_line("; ".join(f"{count} {end}" for end, count in ends.most_common()))

    wait_for_reference(demo)


def wait_for_reference(demo: DemoState) -> None:
    """Wait until the archive's own films are the reference of its ranks, and every study reported before has its revision."""
    waiting = """SELECT (SELECT COUNT(*) FROM v_jobs WHERE state IN ('waiting', 'running')),
        (SELECT COUNT(*) FROM v_predictions WHERE reason = 'no reference')"""
    last_change, previous = time.monotonic(), None
    with demo.console.status("the films of the archive become the reference of its ranks"):
        while (now := demo.query_rows(waiting)[0]) != (0, 0):
            demo.installation.require_alive()
            raise_if_quarantined(demo)
            if now != previous:
                last_change, previous = time.monotonic(), now
            elif time.monotonic() > last_change + STALL_TIMEOUT_SECONDS:
                raise DemoFailed("the studies scored before the reference distribution have no new revision")
            time.sleep(POLL_SECONDS)
    for number, studies in demo.query_rows("SELECT number, studies FROM v_references ORDER BY number"):
        demo.print_line(
            f"reference distribution {number}: {studies} studies of this archive; what was reported before is told anew"
        )


def _finished_studies(demo: DemoState) -> list[str]:
    return [study for study, (state, _) in demo.study_states.items() if state in FINAL_STATES]


def _update_study_states(demo: DemoState) -> list[str]:
    """Update the state of every study; return the changed studies."""
    sent = {one.study_instance_uid for one in demo.sent_studies}
    now = {
        study: (state, reason)
        for study, state, reason in demo.query_rows("SELECT study_instance_uid, state, reason FROM v_studies")
    }
    news = [study for study in now if study in sent and now[study] != demo.study_states.get(study)]
    demo.study_states |= {study: now[study] for study in news}
    return news


def _print_finished_studies(demo: DemoState, news: list[str], printed: int) -> int:
    """Print the first finished studies; return the number printed."""
    numbers = {sent.study_instance_uid: sent.number for sent in demo.sent_studies}
    ended = [study for study in news if demo.study_states[study][0] in FINAL_STATES][: max(0, MAX_LISTED - printed)]
    for study in ended:
        state, reason = demo.study_states[study]
        demo.print_line(f"study {numbers[study]}: {state}" + (f" ({reason})" if reason else ""))
    return len(ended)


def raise_if_quarantined(demo: DemoState) -> None:
    """Raise DemoFailed where a job is quarantined."""
    for kind, error in demo.query_rows("SELECT kind, error FROM v_jobs WHERE state = 'quarantined'"):
        raise DemoFailed(f"a {kind} job is in quarantine: {error}")


def fetch_reports(demo: DemoState) -> None:
    """Fetch the SRs from the archive: its content counts, not the catalog's records."""
    scored = [study for study, (state, _) in demo.study_states.items() if state != StudyState.IGNORED.value]
    with demo.progress_bar(len(scored)) as show:
        for number, study in enumerate(scored, 1):
            if newest := _choose_newest(demo.hospital_archive.fetch_reports(study)):
                demo.reports[study] = newest
            show(number, "asked for")
    missing = [study for study in scored if study not in demo.reports]
    demo.print_line(f"the archive holds the SR of {len(demo.reports)} of {len(scored)} scored studies")
    if missing or not scored:
        raise DemoFailed(f"the archive has no SR of {len(missing)} studies" if missing else "no study was scored")


def _choose_newest(reports: list[bytes]) -> bytes | None:
    """Return the report of the highest revision, which is its Instance Number; None where there is none."""
    return max(reports, key=_read_revision, default=None)


def _read_revision(report: bytes) -> int:
    return int(dcmread(BytesIO(report), specific_tags=["InstanceNumber"]).InstanceNumber)


def show_report(demo: DemoState) -> None:
    """Print the SR of the first study as returned by the archive, and what it tells in words."""
    study = next(sent.study_instance_uid for sent in demo.sent_studies if sent.study_instance_uid in demo.reports)
    for line in text.lines_of_file(demo.reports[study]):
        demo.print_line(line)
    demo.shown_study = study
    show_statement(demo)


def show_statement(demo: DemoState) -> None:
    """Print in words what is told of the shown study now."""
    if not demo.shown_study:
        return
    demo.print_line("radclipd show STUDY:")
    for line in demo.installation.run_verb("show", demo.shown_study).splitlines():
        demo.print_line(f"  {line}")


def show_findings(demo: DemoState) -> None:
    """Print the view v_findings_wide, transposed."""
    names = ", ".join(finding_column(finding) for finding in FINDINGS)
    found = {row[0]: row[1:] for row in demo.query_rows(f"SELECT study_instance_uid, notice, {names} FROM v_findings_wide")}
    numbered = [(sent.number, sent.study_instance_uid) for sent in demo.sent_studies if sent.study_instance_uid in found]
    shown = numbered[:SHOWN_STUDIES]
    notice = found[shown[0][1]][0]
    title = f"v_findings_wide{f' ({notice})' if notice else ''}: log-odds above the own operating point"
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title)
    table.add_column("finding")
    for number, _ in shown:
        table.add_column(f"study {number}", justify="right")
    for index, finding in enumerate(FINDINGS, 1):
        table.add_row(finding_column(finding), *(_format_excess(found[study][index]) for _, study in shown))
    demo.console.print(table)
    if len(shown) < len(numbered):
        demo.print_line(f"... and {len(numbered) - len(shown)} studies more")
    record_scores(demo, ZERO_SHOT)


def _format_excess(excess: float | None) -> str:
    return evaluation.UNDEFINED if excess is None else f"{excess:+.2f}"


def record_scores(demo: DemoState, name: str) -> None:
    """Record the scores and the decisions of the serving version as a column of the evaluation."""
    columns = "study_instance_uid, finding, score, decision = 'present', excess, probability, prevalence"
    rows = demo.query_rows(f"SELECT {columns} FROM v_predictions")
    demo.scores[name] = evaluation.group_scores((study, finding, score) for study, finding, score, *_ in rows)
    demo.decisions[name] = evaluation.group_decisions((study, finding, *told) for study, finding, _, *told in rows)


def show_evaluation(demo: DemoState) -> None:
    """Evaluate the scores against the hidden truth: a table and a plot."""
    notices = {notice for (notice,) in demo.query_rows("SELECT DISTINCT notice FROM v_predictions") if notice}
    description = "none of them labelled" if demo.reader_findings else ""
    demo.evaluation = evaluation.evaluate_scores(
        demo.unlabelled_truths, demo.scores, notice=", ".join(sorted(notices)), studies_description=description
    )
    if demo.evaluation is None:
        demo.print_line(f"No table and no plot: nothing says what these films really show ({_explain_missing_truth(demo)}).")
        return
    demo.console.print(evaluation.build_table(demo.evaluation))
    demo.console.print(evaluation.build_decision_table(demo.unlabelled_truths, demo.decisions))
    demo.print_line("an archive enriched in findings: no figures of a hospital")
    demo.print_line(f"of {demo.films_description}")
    if demo.evaluation.defined_findings < len(FINDINGS):
        demo.print_line(f"{evaluation.UNDEFINED}  not defined: no study has the finding, or every one")
    if demo.options.images is not None:
        demo.print_line("The truth is here what the table in the folder says, and the model has never seen a film like these:")
        demo.print_line("this shows that the way works, and not how good a model can be.")
    evaluation.draw_plot(demo.evaluation, demo.folder / PLOT_FILE, films=demo.films_description)


def _explain_missing_truth(demo: DemoState) -> str:
    if demo.truths:
        return "of the studies whose truth is known, and that were not labelled, none was scored"
    return f"put labels.csv, Data_Entry_2017_v2020.csv or {TRUTH_FILE} into the folder"


def show_locations(demo: DemoState) -> None:
    """Print the locations of all files."""
    folder, installed = demo.installation.folder, demo.installation
    demo.print_line(
        f"archive         {demo.hospital_archive.location}" + ("" if demo.options.hold else " (--hold keeps it running)")
    )
    demo.print_line(f"configuration   {installed.configuration}")
    demo.print_line(f"database        {folder / 'radclipd.db'}")
    demo.print_line(f"received films  {folder / 'images'}")
    demo.print_line(f"model versions  {folder / 'models'}")
    demo.print_line(f"daemon's log    {installed.log}")
    if demo.reader_findings:
        demo.print_line(f"labels          {demo.folder / 'labels-*.csv'}, and what was asked for in worklist-*.csv")
    if demo.truths:
        demo.print_line(f"hidden truth    {demo.folder / TRUTH_FILE}")
    if demo.evaluation is not None:
        demo.print_line(f"plot            {demo.folder / PLOT_FILE}")
    demo.print_line(f'ask it          radclipd --config {installed.configuration} query "SELECT * FROM v_reports"')
