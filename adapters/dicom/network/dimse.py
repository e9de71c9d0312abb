"""DIMSE constants: SOP classes of verification and query/retrieve, and status codes.

Statuses: PS3.7 annex C; of C-STORE PS3.4 table B.2-1; of C-FIND, C-GET and C-MOVE PS3.4 C.4. Storage SOP classes: pydicom.uid.
"""

from __future__ import annotations

VERIFICATION = "1.2.840.10008.1.1"  # PS3.4 A.4
STORAGE_COMMITMENT = "1.2.840.10008.1.20.1"  # Storage Commitment Push Model SOP Class, PS3.4 J.3
STORAGE_COMMITMENT_INSTANCE = "1.2.840.10008.1.20.1.1"  # its well-known SOP Instance
STUDY_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.2.1"  # PS3.4 C.6.2
STUDY_ROOT_MOVE = "1.2.840.10008.5.1.4.1.2.2.2"
STUDY_ROOT_GET = "1.2.840.10008.5.1.4.1.2.2.3"

# Status codes
SUCCESS = 0x0000
PENDING = 0xFF00
PENDING_WITH_WARNING = 0xFF01
PENDING_STATUSES = (PENDING, PENDING_WITH_WARNING)

# Failures of any service, PS3.7 annex C
PROCESSING_FAILURE = 0x0110
DUPLICATE_SOP_INSTANCE = 0x0111
SOP_CLASS_NOT_SUPPORTED = 0x0122
NOT_AUTHORIZED = 0x0124
UNRECOGNIZED_OPERATION = 0x0211

# C-STORE
OUT_OF_RESOURCES = 0xA700
OUT_OF_RESOURCES_STATUSES = range(0xA700, 0xA800)
DATA_SET_DOES_NOT_MATCH_SOP_CLASS = 0xA900
WARNING_STATUSES = range(0xB000, 0xC000)
CANNOT_UNDERSTAND = 0xC000
DIFFERENT_INSTANCE = 0xC001
"""Of the range Cxxx, Cannot understand; the last two digits are the SCP's own: another file under a known SOP Instance UID."""
UNEXPECTED_ERROR = 0xC002
"""Of the same range: an error in this software."""

# C-FIND, C-GET, C-MOVE
MOVE_DESTINATION_UNKNOWN = 0xA801
SUB_OPERATIONS_FAILED = 0xB000
UNABLE_TO_PROCESS_STATUSES = range(0xC000, 0xD000)
