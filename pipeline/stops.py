"""stops: a person stops, resumes or recalls reports. Each takes effect with the next job, in every process."""

from __future__ import annotations

from pipeline import decisions
from pipeline.domain import AuditEvent, NotAssessedReason
from pipeline.errors import PermanentError
from pipeline.ports.services import Catalog
from pipeline.report import ALL_FINDINGS, put_revision

STUDIES_PER_TRANSACTION = 200
"""Studies of a recall that are written together."""


def stop(finding: str, *, reason: str, source: str, catalog: Catalog) -> None:
    """Stop reporting of a finding, or of all (ALL_FINDINGS). PermanentError where it is stopped already.

    A stopped finding is told as not assessed, also in reports that are built and wait to be sent. While all are stopped nothing is
    built or sent; studies are scored and wait.
    """
    with catalog.begin() as tx:
        if finding in tx.stops.current():
            raise PermanentError(f"reporting of {_name_finding(finding)} is stopped already", hint="radclipd reports stops")
        tx.stops.stop(finding, reason=reason, source=source)
        tx.audit(AuditEvent("stop", "done", finding, f"reporting of {_name_finding(finding)} stopped: {reason}", source))


def resume(finding: str, *, source: str, catalog: Catalog) -> None:
    """End a stop. PermanentError where there is none.

    Findings that were told as not assessed stay so until the study is scored again.
    """
    with catalog.begin() as tx:
        if finding not in tx.stops.current():
            raise PermanentError(f"reporting of {_name_finding(finding)} is not stopped", hint="radclipd reports stops")
        tx.stops.resume(finding)
        tx.audit(AuditEvent("resume", "done", finding, f"reporting of {_name_finding(finding)} resumed", source))


def recall(number: int, *, reason: str, source: str, catalog: Catalog) -> int:
    """Enqueue, for each study whose newest delivered report is of this version, a revision that withdraws it; return their number.

    Safe to repeat: a withdrawn study is not withdrawn again. PermanentError for an unknown version.
    """
    with catalog.begin() as tx:
        if tx.versions.find(number) is None:
            raise PermanentError(f"there is no version {number}", hint="radclipd versions list")
        tx.audit(AuditEvent("recall", "done", f"version {number}", f"reports withdrawn: {reason}", source))
    done, after = 0, ""
    while True:
        with catalog.begin() as tx:
            studies = tx.reports.studies_reported_by(number, after=after, limit=STUDIES_PER_TRANSACTION)
            if not studies:
                return done
            for uid, report in tx.reports.latest_of(studies).items():
                if report.version == number and report.reaches_archive and not report.withdrawal:
                    withheld = decisions.withhold(tx.scores.predictions(uid, number), NotAssessedReason.WITHDRAWN)
                    put_revision(tx, uid, number, withheld, withdrawal=reason)
                    done += 1
        after = studies[-1]


def _name_finding(finding: str) -> str:
    return "all findings" if finding == ALL_FINDINGS else finding
