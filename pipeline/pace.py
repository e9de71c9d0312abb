"""How many jobs a worker takes at once: so few that what arrives meanwhile does not wait long, so many that batches are full."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Pace:
    """`seconds`: how long one turn may take, about. It follows from how long a job took lately; the first turns take `least`."""

    seconds: float
    least: int
    most: int
    _each: float | None = field(default=None, init=False)
    _turns: int = field(default=0, init=False)

    @property
    def limit(self) -> int:
        """How many jobs to claim. Where one takes longer than a turn may, one."""
        if self._each is None:
            return self.least
        return max(1, min(self.most, int(self.seconds / self._each)))

    def newest(self, limit: int) -> int:
        """How many of so many jobs are to be those that came last: half of them, of an odd number one more every other time.

        So what has just come waits for no backlog, and nobody waits more than twice as long as if all stood in one line.
        """
        self._turns += 1
        return (limit + self._turns % 2) // 2

    def took(self, jobs: int, seconds: float) -> None:
        """Tell how long a turn took. A slow one, as the first that loads the model, is forgotten soon."""
        each = max(seconds / jobs, 1e-6)
        self._each = each if self._each is None else (self._each + each) / 2
