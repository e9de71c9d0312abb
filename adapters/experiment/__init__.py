"""The few-shot experiment as a person runs it: films and labels in, a folder of tables, plots and a report out.

In order: `sources` (phantoms, ChestX-ray14, the hospital's own catalog: each gives cases, a split and films) -> `bases` (which
encoder) -> `cache` (films, features and what the projection is applied to, once) -> `run` (every method at every shot count and
draw, one small file each) -> `tables` -> `plots` -> `report`. The methods and the statistics are `models.ladder` and
`models.experiment`; nothing of the daemon imports this.
"""

from __future__ import annotations
