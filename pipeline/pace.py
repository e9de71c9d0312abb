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

    @property
    def limit(self) -> int:
        """How many jobs to claim. Where one takes longer than a turn may, one."""
        if self._each is None:
            return self.least
        return max(1, min(self.most, int(self.seconds / self._each)))

    def took(self, jobs: int, seconds: float) -> None:
        """Tell how long a turn took. A slow one, as the first that loads the model, is forgotten soon."""
        each = max(seconds / jobs, 1e-6)
        self._each = each if self._each is None else (self._each + each) / 2
