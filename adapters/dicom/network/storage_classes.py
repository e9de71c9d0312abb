"""Storage SOP classes (PS3.4 B.5) and transfer syntaxes: the presentation contexts of the listener and of C-GET."""

from __future__ import annotations

from functools import cache

from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, build_context
from pynetdicom.presentation import PresentationContext

from adapters.dicom.network.dimse import VERIFICATION
from pipeline.rules import RADIOGRAPH_SOP_CLASSES

DOCUMENT_SUFFIXES = ("SRStorage", "KeyObjectSelectionDocumentStorage", "PresentationStateStorage")
"""Keyword endings of the document classes that accompany radiographs: structured reports, key objects, presentation states."""
UNCOMPRESSED_SYNTAXES: list[str | UID] = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]
COMPRESSED_SYNTAXES = {f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 57, 70, 80, 81, 90, 91)} | {"1.2.840.10008.1.2.5"}
"""JPEG, JPEG-LS, JPEG 2000 and RLE of single-frame images: PS3.5 10."""


def supported_contexts(*, other_storage: str) -> list[PresentationContext]:
    """Return the contexts of Verification and of each accepted storage class, the latter with every transfer syntax."""
    storage = [build_context(uid, ALL_TRANSFER_SYNTAXES) for uid in accepted_sop_classes(other_storage=other_storage)]
    return [build_context(VERIFICATION), *storage]


@cache
def accepted_sop_classes(*, other_storage: str) -> tuple[UID, ...]:
    """Return radiographs and their documents; every storage SOP class where `other_storage` is "keep"."""
    return tuple(
        context.abstract_syntax
        for context in AllStoragePresentationContexts
        if context.abstract_syntax is not None and (other_storage == "keep" or _is_radiography(context.abstract_syntax))
    )


def requested_contexts() -> list[PresentationContext]:
    """Return the storage contexts that a C-GET proposes: a context of its own for each compressed syntax of a radiograph.

    Of several syntaxes in one context an archive chooses one, and transcodes instances stored in another (PS3.8 9.3.3.2).
    """
    compressed = [syntax for syntax in ALL_TRANSFER_SYNTAXES if UID(syntax).is_compressed and syntax in COMPRESSED_SYNTAXES]
    contexts: list[PresentationContext] = []
    for uid in accepted_sop_classes(other_storage="refuse"):
        contexts.append(build_context(uid, UNCOMPRESSED_SYNTAXES))
        if uid in RADIOGRAPH_SOP_CLASSES:
            contexts += [build_context(uid, [syntax]) for syntax in compressed]
    return contexts


def _is_radiography(sop_class: UID) -> bool:
    return sop_class in RADIOGRAPH_SOP_CLASSES or sop_class.keyword.endswith(DOCUMENT_SUFFIXES)
