"""How many jobs a worker takes at once: so few that what arrives meanwhile does not wait long, so many that batches are full."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class ClaimSizer:
    """`seconds`: how long one turn may take, about. It follows from how long a job took lately; the first turns take `least`."""

    target_seconds: float
    min_jobs: int
    max_jobs: int
    _seconds_per_job: float | None = field(default=None, init=False)
    _claims_made: int = field(default=0, init=False)

    @property
    def limit(self) -> int:
        """How many jobs to claim. Where one takes longer than a turn may, one."""
        if self._seconds_per_job is None:
            return self.min_jobs
        return max(1, min(self.max_jobs, int(self.target_seconds / self._seconds_per_job)))

    def newest_limit(self, limit: int) -> int:
        """How many of so many jobs are to be those that came last: half of them, of an odd number one more every other time.

        So what has just come waits for no backlog, and nobody waits more than twice as long as if all stood in one line.
        """
        self._claims_made += 1
        return (limit + self._claims_made % 2) // 2

    def record_batch(self, jobs: int, seconds: float) -> None:
        """Tell how long a turn took. A slow one, as the first that loads the model, is forgotten soon."""
        each = max(seconds / jobs, 1e-6)
        self._seconds_per_job = each if self._seconds_per_job is None else (self._seconds_per_job + each) / 2
