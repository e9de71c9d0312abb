"""The few-shot experiment: splits, draws, summary. Numpy and scipy; no files, no DICOM.

In order: `models.evaluation.cases` (films with labels and metadata) -> `splits` (pool and test, by patient) -> `draws` (nested
supports) -> `models.ladder` (every method fits on a support and scores the test cases) -> `models.evaluation.statistics` ->
`summary`.
"""

from __future__ import annotations
