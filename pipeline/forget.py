"""forget: one patient is erased everywhere within reach; the result tells what stays elsewhere, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.audit_chain import FORGET, LINK_BATCH
from pipeline.domain import AuditEvent
from pipeline.errors import PermanentError
from pipeline.ports.erasure import (
    ActivationFiles,
    ErasingCatalog,
    ErasingTransaction,
    Erasures,
    ExportFolders,
    ExportRecord,
    PatientHoldings,
    PatientRecord,
)
from pipeline.ports.services import ImageStore


@dataclass(frozen=True, slots=True, kw_only=True)
class PatientChoice:
    """The patient to forget. One of `patient_id` and `study_instance_uid` is given."""

    patient_id: str = ""
    issuer_of_patient_id: str | None = None  # None: there is one issuer
    study_instance_uid: str = ""  # of a patient without an ID


@dataclass(frozen=True, slots=True, kw_only=True)
class Erasure:
    """Result of `forget`, without identity."""

    pseudonym: str  # in the audit chain
    rows: Mapping[str, int]  # table -> deleted rows
    files: int
    activations: int  # records of the cache
    exports: int  # folders that the patient was removed from
    remains: Sequence[str]  # what stays, and why


@dataclass(frozen=True, slots=True, kw_only=True)
class ErasureTools:
    """The places outside the catalog that hold parts of a patient."""

    images: ImageStore
    activations: ActivationFiles
    exports: ExportFolders


def forget(choice: PatientChoice, *, catalog: ErasingCatalog, tools: ErasureTools, source: str) -> Erasure:
    """Erase the patient. Files go first: a crash leaves rows, by which a second call finds the rest.

    PermanentError where there is no such patient, or more than one; OutOfResources.
    """
    with catalog.begin() as tx:
        patient = _find_patient(choice, tx.erasures)
        tx.erasures.begin(patient.number)
        holdings, exports = tx.erasures.describe(patient.number), tx.erasures.exports()
    activations = _remove_activations(patient, holdings, catalog, tools)
    pseudonym = holdings.export_pseudonym
    missing = [one for one in exports if not tools.exports.remove_patient(one.directory, pseudonym)]
    _remove_files(holdings, tools)
    with catalog.begin() as tx:
        late = tx.erasures.describe(patient.number)  # with what came meanwhile
        _erase_rows(tx, patient, late, source)
    _remove_files(late, tools)
    unpurged = catalog.purge_erased_pages()
    return Erasure(
        pseudonym=holdings.audit_pseudonym,
        rows=late.rows,
        files=len({file.key for file in (*holdings.files, *late.files)}),
        activations=activations,
        exports=len(exports) - len(missing),
        remains=[*describe_remains(late), *filter(None, [unpurged]), *(_describe_export(one, pseudonym) for one in missing)],
    )


def _remove_activations(patient: PatientRecord, holdings: PatientHoldings, catalog: ErasingCatalog, tools: ErasureTools) -> int:
    """Remove cached activations; with labels there may be augmented copies, whose names nobody knows."""
    if "labels" not in holdings.rows:
        return tools.activations.remove([file.sha256 for file in holdings.files])
    with catalog.read() as tx:
        return tools.activations.retain(tx.erasures.other_sha256s(patient.number))


def _remove_files(holdings: PatientHoldings, tools: ErasureTools) -> None:
    for file in holdings.files:
        tools.images.remove(file)


def _describe_export(export: ExportRecord, pseudonym: str) -> str:
    return f"the export {export.directory} of {export.made_at:%Y-%m-%d}, which is not there: remove {pseudonym} from it"


def _find_patient(choice: PatientChoice, erasures: Erasures) -> PatientRecord:
    if choice.study_instance_uid:
        found = [record] if (record := erasures.find_patient_of_study(choice.study_instance_uid)) else []
    else:
        found = list(erasures.find_patients(choice.patient_id))
    issuer = choice.issuer_of_patient_id
    chosen = [one for one in found if issuer is None or one.issuer_of_patient_id == issuer]
    if not chosen:
        raise PermanentError("there is no such patient in the catalog", hint="radclipd query 'select * from v_studies'")
    if len(chosen) > 1:
        raise PermanentError(f"{len(chosen)} patients have this ID, of different issuers", hint="name one with --issuer")
    return chosen[0]


def _erase_rows(tx: ErasingTransaction, patient: PatientRecord, holdings: PatientHoldings, source: str) -> None:
    """Link what is known of the patient under the pseudonym, blank it, delete the rows, and tell so in the chain."""
    while tx.audit_chain.link(limit=LINK_BATCH):
        pass
    tx.erasures.erase(patient.number)
    detail = ", ".join(f"{count} {table}" for table, count in sorted(holdings.rows.items()))
    tx.audit(AuditEvent(FORGET, "done", "", f"erased: {detail}", source, holdings.audit_pseudonym))
    tx.audit_chain.link(limit=LINK_BATCH)


def describe_remains(holdings: PatientHoldings) -> list[str]:
    """Return what an erasure leaves, and why."""
    remains = [
        "audit events: time, action and source under a pseudonym that no key leads to any more; the chain needs them",
        "backups of the database and of the image store: delete those from before today, or let them expire",
        "the journal of the host names studies by UID: it expires by its own rules",
    ]
    if holdings.sent_objects:
        remains.append(f"{holdings.sent_objects} reports in the archive: the archive keeps its studies by its own rules")
    if holdings.versions:
        numbers = ", ".join(map(str, holdings.versions))
        remains.append(
            f"model versions {numbers}: weights learnt while the labels were there; they hold no identity, but the SHA-256 of study"
            " UIDs. Later versions learn without this patient"
        )
    if holdings.backfilled:
        remains.append(f"{holdings.backfilled} study UIDs in the lists of backfills, so that none brings the studies back")
    return remains
