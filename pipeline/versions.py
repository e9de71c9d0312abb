"""versions: the choice of the serving model version, by a person or because the files of the serving version are damaged."""

from __future__ import annotations

import logging
from collections.abc import Callable

from pipeline.domain import AuditEvent, ModelVersion, VersionState
from pipeline.errors import NoWeights, PermanentError, RadclipdError, WeightsCorrupt, WeightsRejected
from pipeline.ports.services import Catalog, Scorer, Scorers, Transaction

log = logging.getLogger("radclipd.versions")

VerifyWeights = Callable[[ModelVersion], object]
"""Loads a version and verifies its files against its card. NoWeights, WeightsRejected."""


def promote(number: int, *, catalog: Catalog, verify: VerifyWeights, source: str) -> ModelVersion:
    """Let a version of any other state serve; return it. Its files are verified first. PermanentError where it serves already."""
    with catalog.read() as tx:
        version = _require_version(tx, number)
    if version.state is VersionState.SERVING:
        raise PermanentError(f"version {number} serves already", hint="radclipd versions list")
    verify(version)
    with catalog.begin() as tx:
        before = tx.versions.serving()
        tx.versions.serve(number)
        detail = f"serves in place of version {before.number}" if before else "serves"
        tx.audit(AuditEvent("promote", "done", f"version {number}", detail, source))
        return _require_version(tx, number)


def reject(number: int, *, reason: str, catalog: Catalog, source: str) -> ModelVersion:
    """Reject a version with the reason; return it. PermanentError for the serving version."""
    with catalog.begin() as tx:
        if _require_version(tx, number).state is VersionState.SERVING:
            raise PermanentError(
                f"version {number} serves",
                hint="radclipd versions rollback, or promote another one: radclipd versions promote N",
            )
        tx.versions.put_state(number, VersionState.REJECTED, reason=reason)
        tx.audit(AuditEvent("reject", "done", f"version {number}", reason, source))
        return _require_version(tx, number)


def rollback(*, reason: str, catalog: Catalog, verify: VerifyWeights, source: str) -> ModelVersion:
    """Reject the serving version and let its predecessor serve again; return the predecessor. Its files are verified first.

    NoWeights where no version serves, PermanentError where no version served before.
    """
    with catalog.read() as tx:
        broken = require_serving(tx)
        before = tx.versions.previously_serving()
    if before is None:
        raise PermanentError(
            f"no version served before version {broken.number}", hint="radclipd versions list; radclipd versions promote N"
        )
    verify(before)
    _restore_previous(broken, before, reason=reason, outcome="done", catalog=catalog, source=source)
    return before


def require_serving(tx: Transaction) -> ModelVersion:
    """Return the serving version. NoWeights where no version serves."""
    serving = tx.versions.serving()
    if serving is None:
        raise NoWeights(
            "no model version serves", hint="radclipd model import FILE --architecture NAME, or radclipd model fetch TAG"
        )
    return serving


def load_serving(*, catalog: Catalog, scorers: Scorers) -> Scorer:
    """Load the serving version. Where its files are missing or damaged, its predecessor serves again.

    The fall-back is logged as an error and audited, and the damaged version is rejected with the reason. NoWeights where no version
    serves; NoWeights or WeightsRejected where neither version can be loaded.
    """
    with catalog.read() as tx:
        serving = require_serving(tx)
        before = tx.versions.previously_serving()
    try:
        return scorers.load(serving)
    except (NoWeights, WeightsRejected) as error:
        if before is None:
            raise
        return _fall_back(serving, before, error, catalog=catalog, scorers=scorers)


def _fall_back(serving: ModelVersion, before: ModelVersion, error: RadclipdError, *, catalog: Catalog, scorers: Scorers) -> Scorer:
    try:
        scorer = scorers.load(before)
    except (NoWeights, WeightsRejected):
        raise error from None  # the fault is in the folder or the base weights that both versions share, not in one version
    fault = _classify_fault(error)
    log.error(
        "serving version cannot be loaded; the one before it serves again",
        extra={"version": serving.number, "before": before.number, "fault": fault, "error": str(error), "hint": error.hint},
    )
    _restore_previous(serving, before, reason=f"cannot be loaded, {fault}: {error}", outcome="failed", catalog=catalog, source="")
    return scorer


def _classify_fault(error: RadclipdError) -> str:
    """Return "missing" or "corrupt" (restore a backup), or "incompatible" (check the release and its libraries)."""
    if isinstance(error, NoWeights):
        return "missing"
    return "corrupt" if isinstance(error, WeightsCorrupt) else "incompatible"


def _restore_previous(
    broken: ModelVersion, before: ModelVersion, *, reason: str, outcome: str, catalog: Catalog, source: str
) -> None:
    """Change both versions in one transaction, unless another process has changed the serving version meanwhile."""
    with catalog.begin() as tx:
        if require_serving(tx).number != broken.number:
            return
        tx.versions.serve(before.number)
        tx.versions.put_state(broken.number, VersionState.REJECTED, reason=reason)
        detail = f"version {before.number} serves in place of version {broken.number}: {reason}"
        tx.audit(AuditEvent("rollback", outcome, f"version {before.number}", detail, source))


def _require_version(tx: Transaction, number: int) -> ModelVersion:
    version = tx.versions.find(number)
    if version is None:
        raise PermanentError(f"there is no version {number}", hint="radclipd versions list")
    return version
