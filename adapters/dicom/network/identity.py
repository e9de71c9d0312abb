"""The identity of a DICOM peer: the Implementation Class UID (PS3.7 D.3.3.2), by which our listener is known."""

from __future__ import annotations

from pynetdicom import AE

from adapters.dicom.image.part10 import IMPLEMENTATION_CLASS_UID
from adapters.dicom.network.dimse import VERIFICATION


def is_own_listener(host: str, port: int, *, called_ae_title: str, calling_ae_title: str, timeout_seconds: float) -> bool:
    """Whether a listener of radclipd accepts an association at this address."""
    ae = AE(calling_ae_title)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = ae.connection_timeout = timeout_seconds
    ae.add_requested_context(VERIFICATION)
    association = ae.associate(host, port, ae_title=called_ae_title)
    if not association.is_established:
        return False
    implementation = association.acceptor.implementation_class_uid
    association.release()
    return bool(implementation == IMPLEMENTATION_CLASS_UID)
