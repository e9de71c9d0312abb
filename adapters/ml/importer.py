"""Import of weights: a base in the model directory, and a zero-shot ModelVersion of it in the catalog.

A base is read back by `read_base`, as for serving, before its version is inserted: a base that cannot be served cannot be
registered.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import structlog

from adapters.ml.error_translation import translate_model_errors
from adapters.ml.version_card import base_card
from models.checkpoint_files import HEAD
from models.classifier.head import LinearHead, zero_shot_head
from models.classifier.prompts import Prompts, read_prompts
from models.encoder import sources
from models.encoder.base import Base, read_base, write_base
from models.encoder.checkpoint import write_checkpoint
from models.encoder.encoder import Encoder
from models.images.preprocess import Preprocess
from pipeline.domain import FINDINGS, AuditEvent, ModelVersion, VersionState
from pipeline.errors import WeightsRejected
from pipeline.ports.services import Catalog, Transaction

UNTRAINED = "UNTRAINED"
"""Notice on every result of untrained weights."""

_log = structlog.get_logger("radclipd.ml")


class ImportStore(Protocol):
    """The part of the model directory that the importer uses."""

    def base_folder(self, name: str) -> Path:
        """Return the folder of a base. PermanentError for a name that cannot be a folder's."""

    def stage(self) -> AbstractContextManager[Path]:
        """Yield an empty folder."""

    def publish_base(self, staged: Path, name: str) -> object:
        """Move a staged base to its final folder."""

    def publish_version(self, staged: Path, number: int) -> Path:
        """Move a staged version to its final folder."""


def import_base(store: ImportStore, source: sources.WeightsSource, *, name: str = "", notice: str = "") -> str:
    """Load foreign weights and store them as a base; return its name, by default derived from the source's.

    WeightsRejected with the reason where they cannot be used; NoWeights for a missing file.
    """
    name = name or base_name(str(source.origin["name"]))
    store.base_folder(name)  # an invalid name is refused before minutes of work
    with translate_model_errors():
        return _store_base(store, source.encoder(), source.preprocess, source.provenance(), name=name, notice=notice)


def import_untrained_base(store: ImportStore, architecture: str, *, seed: int, name: str = "") -> str:
    """Store a base of untrained weights, with the notice UNTRAINED; return its name. Same seed, same weights."""
    with translate_model_errors():
        encoder, preprocess, origin = sources.build_untrained(architecture, seed=seed)
        name = name or base_name(f"untrained-{encoder.architecture.name}-{seed}")
        return _store_base(store, encoder, preprocess, origin, name=name, notice=UNTRAINED)


def base_name(source: str) -> str:
    """Return the folder name for a source: ViT-B-32-quickgelu/openai -> vit-b-32-quickgelu-openai."""
    stem = re.sub(r"\.(safetensors|pt|pth|bin|ckpt)$", "", source.removeprefix(sources.HUB_PREFIX).lower())
    return re.sub(r"[^a-z0-9._-]+", "-", stem).strip("-._")[:63]


def register_zero_shot(catalog: Catalog, store: ImportStore, base: str, *, serve: bool = False) -> ModelVersion:
    """Add a zero-shot version of a base to the catalog; it serves where no version does, or where `serve` is true.

    It has learnt nothing, so its findings are told as ranks among the hospital's own studies. The head's files are in place before
    the row commits; a version whose row does not commit leaves a folder that the next one replaces.
    """
    with translate_model_errors():
        read, prompts = read_base(store.base_folder(base)), read_prompts()
        if prompts.findings != FINDINGS:
            raise WeightsRejected(
                "the prompt file does not list the findings of FINDINGS in their order", hint="restore prompts.toml"
            )
        head = zero_shot_head(read.encoder, prompts)
    with catalog.begin() as transaction:
        number = transaction.versions.next_number()
        sha256 = _write_head(store, number, base, read, head)
        version = ModelVersion(
            number=number,
            state=VersionState.CANDIDATE,
            name=f"zero-shot {base}",
            base=base,
            weights_sha256=read.sha256,
            device_uid=f"2.25.{uuid.uuid4().int}",  # PS3.5 B.2
            notice=str(read.card.get("notice", "")),
            card=_build_version_card(base, read, prompts, head_sha256=sha256),
        )
        _insert_version(transaction, version, serve=serve)
        inserted = transaction.versions.find(number) or version
    _log.info("model version added", version=number, base=base, state=inserted.state.value, notice=inserted.notice)
    return inserted


def _store_base(
    store: ImportStore, encoder: Encoder, preprocess: Preprocess, origin: Mapping[str, Any], *, name: str, notice: str
) -> str:
    with store.stage() as folder:
        write_base(folder, encoder, preprocess, source=origin, notice=notice)
        store.publish_base(folder, name)
    return name


def _write_head(store: ImportStore, number: int, base: str, read: Base, head: LinearHead) -> str:
    """Write and publish a version's files; return the SHA-256 of its head."""
    with translate_model_errors(), store.stage() as folder:
        card = write_checkpoint(
            folder, HEAD, head.tensors, {"base": {"name": base, "sha256": read.sha256}, "findings": list(FINDINGS)}
        )
        store.publish_version(folder, number)
    return str(card["weights"]["sha256"])


def _build_version_card(base: str, read: Base, prompts: Prompts, *, head_sha256: str) -> dict[str, Any]:
    """Return the catalog's card: the values that loading checks, and the origin of the weights."""
    return {
        "recipe": "zero-shot",
        "weights": {"name": base, "sha256": read.sha256},
        "head": {"sha256": head_sha256},
        **base_card(read, prompts),
    }


def _insert_version(transaction: Transaction, version: ModelVersion, *, serve: bool) -> None:
    """Insert the row, let it serve where `serve` is true or no version serves, and add an audit event."""
    transaction.versions.add(version)
    serves = serve or transaction.versions.serving() is None
    if serves:
        transaction.versions.serve(version.number)
    state = "serving" if serves else "candidate"
    detail = f"{state}; base {version.base} sha256 {version.weights_sha256[:12]}" + (
        f"; {version.notice}" if version.notice else ""
    )
    transaction.audit(AuditEvent(action="model.import", outcome="done", subject=f"version {version.number}", detail=detail))
