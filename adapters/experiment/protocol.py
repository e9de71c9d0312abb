"""Cautions required by films and encoder, and the differences of the protocol from the paper."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from adapters.experiment.result_tables import FewshotTables
from adapters.ml.importer import UNTRAINED

MIN_DRAWS = 10
MIN_POSITIVES = 20
"""Minimum positives in the test set; below, the interval of a finding's AUC exceeds most differences between methods."""

PROTOCOL = """\
## How this differs from the paper

The idea is that of Dalsania, “Label-Efficient Chest X-ray Diagnosis via Partial CLIP Adaptation”, arXiv 2507.07254 (2025):
CLIP's image encoder, unfrozen in part, on one to sixteen labelled films a finding. Its code, as published, measures something
else, and these tables must not be set beside its own:

* Its “zero-shot” model had been trained on 75,312 labelled films. Here zero-shot is text prompts and no label.
* Its few labelled films came from the pool of those 75,312. Here the encoder has seen none of the pool's labels.
* Its training and validation films were parted by film, not by patient, so that one patient is on both sides. Here patients are
  parted and pixels compared.
* Its best epoch was chosen on the test set. Here nothing is: steps and strengths are fixed beforehand.
* Its supports held no normal film. Here there are as many normal films as positives of a finding.
* Its figures rest on one draw, without intervals. Here draws are many and test patients are resampled.
* It normalised training and test films differently, and mirrored films left to right. Here both are normalised alike, and no
  film is ever mirrored: the heart lies on one side.
* Its class weights were counted over all films, tested ones included. Here they come from the support.
* Its best weights were put back from a copy that had changed with them, so that the last epoch was reported in their place.
* Its 16-shot run on rare findings used the 8-shot films, on a test set of about 19 films.
* It counted an undefined AUC as .5. Here it is missing, and counted as missing."""


def describe_shortages(result_tables: FewshotTables) -> str:
    """Say how many films the supports really hold of every kind that the pool cannot fill."""
    counts = (
        f"{each.kind} {each.least if each.least == each.most else f'{each.least} to {each.most}'}"
        for each in result_tables.shortages
    )
    most, first = max(row.shots for row in result_tables.summary), min(each.shots for each in result_tables.shortages)
    return (
        f"The pool cannot fill every shot count from {first} on. With {most} shots the supports hold no more than "
        f"{', '.join(counts)}: of these a row of more shots is a row of that many."
    )


def cautions(manifest: Mapping[str, Any], result_tables: FewshotTables) -> list[str]:
    """Return the warnings at the head of a report, in descending severity."""
    base, kind = manifest["identity"]["base"], manifest["identity"]["films"]["kind"]
    found = []
    if base["notice"]:
        found.append(f"Encoder marked: {base['notice']}.")
    if base["notice"] == UNTRAINED:
        found.append("A check of the plumbing: the encoder holds random numbers.")
    elif base["notice"] and kind != "phantom":
        found.append("A check of the plumbing, and no claim of quality: the encoder has seen simulated films only.")
    found += manifest["notes"]
    positives = {row.finding: row.positives for row in result_tables.results}
    if few := [finding for finding, count in positives.items() if count < MIN_POSITIVES]:
        found.append(
            f"The test set holds fewer than {MIN_POSITIVES} positives of {len(few)} of {len(positives)} findings "
            f"({', '.join(few)}): too few to tell methods apart. A check of the plumbing, and no claim of quality."
        )
    if result_tables.shortages:
        found.append(describe_shortages(result_tables))
    if manifest["draws"] < MIN_DRAWS:
        found.append(f"Only {manifest['draws']} draws: at least {MIN_DRAWS} are needed to see how much the support matters.")
    return found
