"""fetch: files that retention has deleted and that somebody needs again are fetched from the archive."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial

from pipeline.domain import AuditEvent, InstanceState, Receipt, StoredInstance
from pipeline.errors import PermanentError
from pipeline.ports.backfill import BackfillObject, BackfillSource, BackfillUnit
from pipeline.ports.services import Catalog, ImageStore, InstanceComparison
from pipeline.receive import ReceivePolicy, receive

STUDIES_PER_ROUND = 20
ROUNDS_AFTER_FAILURE = 60
"""Rounds for which a study is left alone that the archive could not give."""


@dataclass(kw_only=True)
class FileFetch:
    """The step for one archive. What it fetches passes `receive`, as if it had been sent."""

    source: BackfillSource
    catalog: Catalog
    images: ImageStore
    receive_policy: ReceivePolicy
    comparison: InstanceComparison | None = None

    def __post_init__(self) -> None:
        self._failed: dict[str, int] = {}  # study -> rounds for which it is left alone

    def fetch_needed(self) -> int:
        """Fetch some of the studies without files that somebody needs; return the number. TransientError ends the round.

        They are labelled, requested, being read at the desk, or their score job is in quarantine.
        """
        self._failed = {uid: rounds - 1 for uid, rounds in self._failed.items() if rounds > 1}
        with self.catalog.read() as tx:
            needed = tx.retention.needed_studies(limit=STUDIES_PER_ROUND + len(self._failed))
        fetched = 0
        for uid in [uid for uid in needed if uid not in self._failed][:STUDIES_PER_ROUND]:
            try:
                self.fetch_study(uid)
                fetched += 1
            except PermanentError as error:
                self._failed[uid] = ROUNDS_AFTER_FAILURE
                with self.catalog.begin() as tx:
                    tx.audit(AuditEvent("fetch", "failed", uid, str(error), self.source.name[:128]))
        return fetched

    def fetch_study(self, study_instance_uid: str) -> int:
        """Fetch the deleted and lost files of a study; return their number. TransientError; PermanentError where one is left."""
        with self.catalog.read() as tx:
            instances = tx.studies.instances(study_instance_uid)
        if not instances:
            raise PermanentError(f"there is no study {study_instance_uid} with files", hint="radclipd studies")
        missing = {one.header.sop_instance_uid for one in instances if not self._is_in_place(one)}
        if not missing:
            return 0
        unit = BackfillUnit(key=study_instance_uid, study_instance_uid=study_instance_uid)
        find_stored: Callable[[Collection[str]], set[str]] = partial(self._find_unwanted, missing)
        self.source.fetch(unit, find_stored, self._store_object)
        if left := missing - self._find_stored(missing):
            raise PermanentError(
                f"{len(left)} of {len(missing)} files of study {study_instance_uid} did not come from {self.source.name}",
                hint="does the archive still have the study? See its log",
            )
        with self.catalog.begin() as tx:
            text = f"{len(missing)} files fetched from the archive"
            tx.audit(AuditEvent("fetch", "done", study_instance_uid, text, self.source.name[:128]))
        return len(missing)

    def _store_object(self, incoming: BackfillObject) -> Receipt | None:
        instance = incoming.read()
        if instance is None:
            return None
        return receive(
            *instance,
            self.source.sender,
            catalog=self.catalog,
            images=self.images,
            policy=self.receive_policy,
            comparison=self.comparison,
        )

    def _find_unwanted(self, missing: set[str], sop_instance_uids: Collection[str]) -> set[str]:
        """Return those that need not be fetched: not deleted, or here by now."""
        return {uid for uid in sop_instance_uids if uid not in missing} | self._find_stored(missing)

    def _find_stored(self, sop_instance_uids: Collection[str]) -> set[str]:
        with self.catalog.read() as tx:
            found = {uid: tx.studies.find_instance(uid) for uid in sop_instance_uids}
        return {uid for uid, one in found.items() if one is not None and self._is_in_place(one)}

    def _is_in_place(self, instance: StoredInstance) -> bool:
        return instance.state is InstanceState.STORED and self.images.exists(instance.file)
