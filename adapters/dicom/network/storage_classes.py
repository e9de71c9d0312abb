"""Which storage SOP classes (PS3.4 B.5) the listener offers."""

from __future__ import annotations

from functools import cache

from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, build_context
from pynetdicom.presentation import PresentationContext

VERIFICATION = "1.2.840.10008.1.1"  # PS3.4 A.4

RADIOGRAPHS = {
    "ComputedRadiographyImageStorage",
    "DigitalXRayImageStorageForPresentation",
    "DigitalXRayImageStorageForProcessing",
    "SecondaryCaptureImageStorage",
}
DOCUMENT_SUFFIXES = ("SRStorage", "KeyObjectSelectionDocumentStorage", "PresentationStateStorage")
"""Ends of the keywords of what comes with radiographs: structured reports, key objects, presentation states."""
UNCOMPRESSED: list[str | UID] = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]
COMPRESSED_SYNTAXES = {f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 57, 70, 80, 81, 90, 91)} | {"1.2.840.10008.1.2.5"}
"""JPEG, JPEG-LS, JPEG 2000 and RLE of single films: PS3.5 10."""


def supported_contexts(*, other_storage: str) -> list[PresentationContext]:
    """Return Verification and the storage classes, each with every transfer syntax; all classes where `other_storage` is "keep"."""
    storage = [build_context(uid, ALL_TRANSFER_SYNTAXES) for uid in accepted_sop_classes(other_storage=other_storage)]
    return [build_context(VERIFICATION), *storage]


@cache
def accepted_sop_classes(*, other_storage: str) -> tuple[UID, ...]:
    """Return the SOP classes of these storage classes."""
    return tuple(
        context.abstract_syntax
        for context in AllStoragePresentationContexts
        if context.abstract_syntax is not None and (other_storage == "keep" or _is_radiography(context.abstract_syntax.keyword))
    )


def requested_contexts() -> list[PresentationContext]:
    """Return what to ask an archive for, that is to send by C-GET: each radiograph in whatever transfer syntax it is stored in.

    Of several syntaxes in one context the archive would choose one, and decompress what is stored otherwise (PS3.8 9.3.3.2).
    """
    one_each = [syntax for syntax in ALL_TRANSFER_SYNTAXES if UID(syntax).is_compressed and syntax in COMPRESSED_SYNTAXES]
    contexts: list[PresentationContext] = []
    for uid in accepted_sop_classes(other_storage="refuse"):
        contexts.append(build_context(uid, UNCOMPRESSED))
        if uid.keyword in RADIOGRAPHS:
            contexts += [build_context(uid, [syntax]) for syntax in one_each]
    return contexts


def _is_radiography(keyword: str) -> bool:
    return keyword in RADIOGRAPHS or keyword.endswith(DOCUMENT_SUFFIXES)
