"""references: scores of the hospital's own studies -> a reference distribution, frozen and numbered, for findings told as ranks.

A version with such findings gets one distribution as soon as enough studies are scored, from the newest of them. It never changes;
another one is made only on request. Studies that were scored before it existed get one new revision. A version that scores these
findings as an earlier one did, with the same base and prompts, gets a copy of that version's distribution with a number of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pipeline import priorities, rules
from pipeline.decisions import ALL_VIEWS, DecisionPolicy, ranked_findings
from pipeline.domain import AuditEvent, Header, JobKind, ModelVersion, ReferenceDistribution, Scores
from pipeline.errors import PermanentError
from pipeline.ports.services import Catalog, Transaction
from pipeline.rescore import MAX_WAITING_JOBS, RESCORE_KEY
from pipeline.versions import require_serving

RERANK_KEY = "reranked"
"""Payload key of a score job: the study is scored, and only its predictions are made anew."""
STUDIES_PER_ROUND = 500
"""Studies that one round puts back into the queue."""


def view_of(headers: Sequence[Header]) -> str:
    """Return the view of a study's images where it is one, "AP" or "PA"; else ""."""
    views = {rules.frontal_direction(header) for header in headers}
    return views.pop() if len(views) == 1 else ALL_VIEWS


def load_current(version: ModelVersion, *, catalog: Catalog) -> ReferenceDistribution | None:
    """Return the newest distribution of a version, copied from an earlier version where that is possible; None: there is none."""
    if not ranked_findings(version):
        return None
    with catalog.read() as tx:
        number = tx.references.current_number(version.number)
        if number is not None:
            return tx.references.find(number)
        if _find_source(tx, version) is None:
            return None
    with catalog.begin() as tx:
        tx.references.lock()
        number = tx.references.current_number(version.number)
        if number is not None:
            return tx.references.find(number)
        source = _find_source(tx, version)
        return _copy_reference(tx, source, version) if source is not None else None


def find_current(version: ModelVersion, tx: Transaction) -> ReferenceDistribution | None:
    """Return the distribution that `load_current` returns or would copy; None: there is none. Nothing is written."""
    if not ranked_findings(version):
        return None
    number = tx.references.current_number(version.number)
    number = number if number is not None else _find_source(tx, version)
    return tx.references.find(number) if number is not None else None


def follow(*, catalog: Catalog, policy: DecisionPolicy) -> ReferenceDistribution | None:
    """Make the serving version's distribution once enough studies are scored, and put studies scored before back into the queue.

    Return the distribution where this call has made it.
    """
    with catalog.read() as tx:
        serving = tx.versions.serving()
        if serving is None or not ranked_findings(serving):
            return None
        number = tx.references.current_number(serving.number)
        enough = tx.scores.count_scored(serving.number, at_most=policy.min_reference_studies) >= policy.min_reference_studies
    made = None
    if number is None and enough:
        made = make(catalog=catalog, policy=policy, again=False)
    if number is not None or made is not None:
        _enqueue_unranked(serving, catalog)
    return made


def make(*, catalog: Catalog, policy: DecisionPolicy, source: str = "", again: bool = True) -> ReferenceDistribution | None:
    """Make a distribution of the serving version from its newest studies. Without `again` None where it has one.

    NoWeights where no version serves; PermanentError where it has no finding that is told as a rank, or too few scored studies.
    """
    with catalog.begin() as tx:
        tx.references.lock()
        serving = require_serving(tx)
        if not ranked_findings(serving):
            raise PermanentError(f"version {serving.number} tells no finding as a rank", hint="radclipd versions show")
        if not again and tx.references.current_number(serving.number) is not None:
            return None
        studies = tx.scores.newest_scored(serving.number, limit=policy.max_reference_studies)
        if len(studies) < policy.min_reference_studies:
            raise PermanentError(
                f"{len(studies)} studies scored by version {serving.number}; a reference distribution needs"
                f" {policy.min_reference_studies}",
                hint="radclipd backfill, or [decision] min_reference_studies",
            )
        made = _build_reference(tx, serving, studies, policy)
        _add_reference(tx, made, f"{made.studies} studies", source)
        return made


def _build_reference(
    tx: Transaction, version: ModelVersion, studies: Sequence[str], policy: DecisionPolicy
) -> ReferenceDistribution:
    scores, instances = tx.scores.study_scores(studies, version.number), tx.studies.instances_of(studies)
    scored = tx.scores.image_scores_of(studies, version.number)
    rows: dict[str, list[Scores]] = {}
    for uid in studies:
        headers = [one.header for one in instances[uid] if one.header.sop_instance_uid in scored.get(uid, ())]
        for view in {ALL_VIEWS, view_of(headers)}:
            rows.setdefault(view, []).append(scores[uid])
    return ReferenceDistribution(
        number=tx.references.next_number(),
        version=version.number,
        studies=len(studies),
        made_at=tx.now(),
        scores=sort_scores(rows, policy),
        priors=dict(policy.priors),
        call_rates={finding: policy.call_rates.get(finding, prior) for finding, prior in policy.priors.items()},
        separation=policy.separation,
    )


def sort_scores(rows: Mapping[str, Sequence[Scores]], policy: DecisionPolicy) -> dict[str, Scores]:
    """Return view -> ascending scores [n, 14], of all studies together and of each view with enough studies."""
    enough = {view: of for view, of in rows.items() if view == ALL_VIEWS or len(of) >= policy.min_reference_studies}
    return {view: np.sort(np.asarray(of, dtype=np.float32), axis=0) for view, of in enough.items()}


def _add_reference(tx: Transaction, reference: ReferenceDistribution, detail: str, source: str = "") -> None:
    tx.references.add(reference)
    said = f"reference distribution {reference.number} of version {reference.version}: {detail}"
    tx.audit(AuditEvent("reference", "done", f"version {reference.version}", said, source))


def _find_source(tx: Transaction, version: ModelVersion) -> int | None:
    """Return the newest distribution of another version whose ranked findings are scored alike: same base, same prompts."""
    origin = _get_origin(version)
    alike = [other.number for other in tx.versions.all() if other.number != version.number and _get_origin(other) == origin]
    numbers = (tx.references.current_number(number) for number in alike)
    return max((number for number in numbers if number is not None), default=None)


def _get_origin(version: ModelVersion) -> tuple[str, str, str]:
    prompts = version.card.get("prompts", {})
    return version.base, version.weights_sha256, str(prompts.get("fingerprint", "")) if isinstance(prompts, dict) else ""


def _copy_reference(tx: Transaction, number: int, version: ModelVersion) -> ReferenceDistribution | None:
    found = tx.references.find(number)
    if found is None:
        return None
    copied = ReferenceDistribution(
        number=tx.references.next_number(),
        version=version.number,
        studies=found.studies,
        made_at=tx.now(),
        scores=found.scores,
        priors=found.priors,
        call_rates=found.call_rates,
        separation=found.separation,
    )
    _add_reference(tx, copied, f"that of version {found.version}, number {found.number}, which scores these findings alike")
    return copied


def _enqueue_unranked(version: ModelVersion, catalog: Catalog) -> None:
    with catalog.read() as tx:
        room = MAX_WAITING_JOBS - tx.jobs.count_waiting(JobKind.SCORE, at_most=MAX_WAITING_JOBS)
        studies = tx.scores.without_reference(version.number, limit=min(room, STUDIES_PER_ROUND)) if room > 0 else []
    if studies:
        with catalog.begin() as tx:
            for uid in studies:
                tx.jobs.put(JobKind.SCORE, uid, {RESCORE_KEY: True, RERANK_KEY: True}, priority=priorities.RESCORE)
