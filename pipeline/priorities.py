"""Job priorities: every priority of the queue, in one table. A job with a lower number runs first."""

from __future__ import annotations

ARRIVED = 100
"""Jobs that a person waits for: everything that follows from an arriving study, and the default of a job."""
LABELS = 200
"""Documents of the archive that are read for labels once more, at a user's request."""
LEARN = 500
"""Rounds of learning. Jobs with this number or a higher one can wait: metrics do not count their age."""
BACKFILL = 800
"""Score jobs of backfilled studies: behind arrivals, before re-scoring."""
RESCORE = 900
"""Score jobs of reported studies that the serving version has not scored."""
ALL = (ARRIVED, LABELS, LEARN, BACKFILL, RESCORE)
