"""Progress bars on standard error: standard output is for results."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

ProgressCallback = Callable[[str, int, int], None]
"""Takes the name of a task, the number of steps done, and their total."""


@contextmanager
def progress_bars() -> Iterator[ProgressCallback]:
    """Yield a function that draws one bar for each task."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    known: dict[str, TaskID] = {}
    with Progress(*columns, console=Console(stderr=True)) as progress:

        def watch(task: str, done: int, total: int) -> None:
            if task not in known:
                known[task] = progress.add_task(task, total=total)
            progress.update(known[task], completed=done, total=total)

        yield watch
