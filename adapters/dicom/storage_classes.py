"""Which storage SOP classes (PS3.4 B.5) the listener offers."""

from __future__ import annotations

from pynetdicom import ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, build_context
from pynetdicom.presentation import PresentationContext

VERIFICATION = "1.2.840.10008.1.1"  # PS3.4 A.4

RADIOGRAPHS = {
    "ComputedRadiographyImageStorage",
    "DigitalXRayImageStorageForPresentation",
    "DigitalXRayImageStorageForProcessing",
    "SecondaryCaptureImageStorage",
}
DOCUMENTS = ("SRStorage", "KeyObjectSelectionDocumentStorage", "PresentationStateStorage")
"""Ends of the keywords of what comes with radiographs: structured reports, key objects, presentation states."""


def supported_contexts(*, other_storage: str) -> list[PresentationContext]:
    """Return Verification and the storage classes, each with every transfer syntax; all classes where `other_storage` is "keep"."""
    chosen = [
        context.abstract_syntax
        for context in AllStoragePresentationContexts
        if context.abstract_syntax is not None and (other_storage == "keep" or _is_radiography(context.abstract_syntax.keyword))
    ]
    storage = [build_context(uid, ALL_TRANSFER_SYNTAXES) for uid in chosen]
    return [build_context(VERIFICATION), *storage]


def _is_radiography(keyword: str) -> bool:
    return keyword in RADIOGRAPHS or keyword.endswith(DOCUMENTS)
