r"""Output of the command line: results on stdout, progress and notices on stderr.

Text for people is written in the stream's own encoding, with escapes (`\u72d7`) for letters that it lacks. JSON is
written in ASCII, which every encoding in use can carry, so it is valid wherever it goes.
"""

from __future__ import annotations

import io
import json
import sys
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress


def write_any_text() -> None:
    """Let stdout and stderr take text outside their encoding, by escapes instead of errors."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


@cache
def stderr() -> Console:
    """The console on stderr: progress, notices and warnings."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, markup=False, soft_wrap=True)


@cache
def stdout() -> Console:
    """The console on stdout: the tables and lists that are a command's result."""
    from rich.console import Console

    return Console(highlight=False, markup=False, soft_wrap=True)


def progress_bar(console: Console, brief: bool = False) -> Progress:
    """Create a progress bar with count, items per second and time left; use it as a context manager.

    The rate is that of all items since the start, at the moment when the last of them was done. (rich's own is the rate
    within the last samples, and of a batch's items, which are counted within an instant, it is a thousandfold.)

    Args:
        console: where to.
        brief: remove the bar at the block's end; the block may then be entered several times, with output between.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
    from rich.text import Text

    class Pace(ProgressColumn):
        """Items per second, and the time that the others will take at that pace."""

        def __init__(self) -> None:
            super().__init__()
            self.last: dict[int, tuple[float, float]] = {}  # by task: items done, and when that was first seen

        def render(self, task: Task) -> Text:
            now = (task.finished_time if task.finished else task.elapsed) or 0.0
            done, at = self.last.get(task.id, (0.0, 0.0))
            if task.completed != done:
                done, at = self.last[task.id] = task.completed, now
            if not done or not at:
                return Text("")
            rate = done / at
            shown = f"{rate:.2f} per s" if rate >= 0.1 else f"{rate:.2g} per s"
            if task.total is None:
                return Text(shown)
            left = max(0.0, (task.total - done) / rate - (now - at))
            return Text(f"{shown}, {timedelta(seconds=round(left))} left")

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Pace())
    return Progress(*columns, console=console, transient=brief)


def emit(value: Any) -> None:
    """Print one JSON object on one line of stdout, in ASCII.

    Raises:
        ValueError: the value holds NaN or infinity, which JSON does not have.
    """
    sys.stdout.write(json.dumps(value, allow_nan=False) + "\n")
    sys.stdout.flush()
