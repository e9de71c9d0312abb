"""Sources of a backfill: folder, DICOMweb, Orthanc's REST API, query/retrieve."""

from __future__ import annotations
