"""Published shares of findings, for whoever needs a prior and not torch."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

CHESTXRAY14_SHARES: Mapping[str, float] = MappingProxyType(
    {
        "Atelectasis": 0.1031,
        "Cardiomegaly": 0.0248,
        "Effusion": 0.1188,
        "Infiltration": 0.1774,
        "Mass": 0.0516,
        "Nodule": 0.0565,
        "Pneumonia": 0.0128,
        "Pneumothorax": 0.0473,
        "Consolidation": 0.0416,
        "Edema": 0.0205,
        "Emphysema": 0.0224,
        "Fibrosis": 0.0150,
        "Pleural_Thickening": 0.0302,
        "Hernia": 0.0020,
    }
)
"""Share of the 112 120 films of ChestX-ray14 that show a finding by its labels (Wang et al., CVPR 2017; label table of 2020)."""
OTHER_SHARE = 0.04
"""Share of a finding without a published one: about the median of CHESTXRAY14_SHARES."""


def published_share(finding: str) -> float:
    """Return the share of a finding in ChestX-ray14; OTHER_SHARE for a finding that it does not have."""
    return CHESTXRAY14_SHARES.get(finding, OTHER_SHARE)
