"""Few-shot experiment: films and labels in, a folder of tables, plots and a report out.

In order: `case_source` (phantoms, ChestX-ray14, the hospital's own catalog: each gives cases, a split and films) -> `bases`
(encoder) -> `feature_cache` (model inputs, features and pooled activations, computed once) -> `scoring` (every method at every
shot count and draw, one file each) -> `result_tables` -> `plots` -> `fewshot_report`. Methods and statistics are in
`models.ladder` and `models.experiment`. No module of the daemon imports this package.
"""

from __future__ import annotations
