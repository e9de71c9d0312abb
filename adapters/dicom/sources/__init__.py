"""Archives that are taken in: a folder, DICOMweb, query/retrieve."""

from __future__ import annotations
