"""Old keys and values of the configuration, and their replacements. An old key is an error that names the new one."""

from __future__ import annotations

from collections.abc import Mapping

RENAMED_SECTIONS: Mapping[str, str] = {"prefix": "activation_cache"}

RENAMED_KEYS: Mapping[str, str | None] = {
    "listener.maximum_associations": "listener.max_associations",
    "listener.maximum_pdu": "listener.max_pdu",
    "storage.minimum_free": "storage.min_free",
    "study.quiet_seconds": "study.stable_age_seconds",
    "score.turn_seconds": "score.claim_seconds",
    "score.combine": "score.aggregate",
    "score.band": "decision.undetermined_margin",
    "score.undetermined_margin": "decision.undetermined_margin",
    "score.threshold": None,
    "prefix.keep": "activation_cache.enabled",
    "prefix.directory": "activation_cache.directory",
    "prefix.limit": "activation_cache.max_size",
    "prefix.fill": "activation_cache.warm",
    "report.rescored": "report.rescored_studies",
    "learn.blocks": "learn.unfrozen_blocks",
    "learn.minimum_positives": "learn.min_positives",
    "learn.background": "learn.unlabelled_studies",
    "learn.gate_patients": "learn.min_gate_patients",
    "worklist.typicality": None,
    "worklist.patients": "worklist.max_patients",
    "worklist.ask_again_days": "worklist.request_expiry_days",
    "backfill.report": "backfill.reports",
    "backfill.days": "backfill.days_per_query",
    "backfill.per_minute": "backfill.max_instances_per_minute",
    "backfill.bytes_per_second": "backfill.max_bytes_per_second",
    "work.maximum_attempts": "work.max_attempts",
    "work.circuit_rest_seconds": "work.circuit_open_seconds",
}
"""Old dotted key -> new dotted key; None: the key was removed."""

RENAMED_VALUES: Mapping[tuple[str, str], str] = {("learn.promote", "by-hand"): "manual"}
"""(Dotted key, old value) -> new value."""


def describe_renamed_key(dotted: str) -> str:
    """Say what became of an old key: "study.quiet_seconds is now study.stable_age_seconds". "" for any other key."""
    if dotted in RENAMED_SECTIONS:
        return f"[{dotted}] is now [{RENAMED_SECTIONS[dotted]}]"
    if dotted not in RENAMED_KEYS:
        return ""
    new = RENAMED_KEYS[dotted]
    return f"{dotted} is now {new}" if new else f"{dotted} was removed"
