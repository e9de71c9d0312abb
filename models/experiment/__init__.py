"""The few-shot experiment: cases, splits, draws, statistics. Numpy and scikit-learn; nothing of files or DICOM.

In order: `cases` (films and what is known of them) -> `splits` (pool and test, by patient) -> `draws` (nested supports) ->
`ladder` (every method fits on a support and scores the test cases) -> `statistics` -> `summary`.
"""

from __future__ import annotations
