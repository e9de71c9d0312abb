"""Public data sets and folders of pictures: NIH ChestX-ray14, truth tables."""

from __future__ import annotations
