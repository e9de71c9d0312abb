"""finding_names: findings and their states as readers write them -> FINDINGS and LabelState."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

from pipeline.domain import FINDINGS, NO_FINDING, LabelState


def normalise_name(name: str) -> str:
    """Return the letters and digits of a name, case-folded: "Pleural_Thickening" and "pleural thickening" are one name."""
    return re.sub(r"[\W_]+", "", name.casefold())


_FINDING_BY_NAME = {normalise_name(name): name for name in (*FINDINGS, NO_FINDING)} | {"pleuraleffusion": "Effusion"}


def all_absent() -> dict[str, LabelState]:
    """Return the statement "No Finding": every finding is absent."""
    return dict.fromkeys(FINDINGS, LabelState.ABSENT)


def parse_findings(words: Iterable[str]) -> dict[str, LabelState]:
    """Return finding -> state of words such as `Mass=absent`, `Edema` (present) and `No Finding`. ValueError with the remedy."""
    states: dict[str, LabelState] = {}
    for word in words:
        name, _, state = (part.strip() for part in word.partition("="))
        for finding, value in _parse_finding(name, state.casefold()).items():
            if states.setdefault(finding, value) is not value:
                raise ValueError(f"{finding} is said to be {states[finding].value} and {value.value}")
    if not states:
        raise ValueError("no finding is named")
    return states


def match_finding(name: str) -> str | None:
    """Return the finding, or NO_FINDING, with this name, whatever its case and punctuation; None where there is none."""
    return _FINDING_BY_NAME.get(normalise_name(name))


def _parse_finding(name: str, state: str) -> dict[str, LabelState]:
    finding = match_finding(name)
    if finding is None:
        near = difflib.get_close_matches(name, (*FINDINGS, NO_FINDING), n=1)
        meant = f" (did you mean {near[0]}?)" if near else ""
        raise ValueError(f"{name!r} is no finding{meant}: one of {', '.join(FINDINGS)}, or {NO_FINDING}")
    if state not in ("", *LabelState):
        raise ValueError(f"{name} is present, absent or uncertain, not {state!r}")
    if finding != NO_FINDING:
        return {finding: LabelState(state or LabelState.PRESENT)}
    if state not in ("", LabelState.PRESENT):
        raise ValueError(f"{NO_FINDING} can only be present: name the findings instead")
    return all_absent()
