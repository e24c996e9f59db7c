"""Output of the command line: results on stdout, progress and notices on stderr."""

from __future__ import annotations

import json
import sys
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress


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


def progress_bar(console: Console) -> Progress:
    """Create a progress bar with count, items per second and time left; use it as a context manager."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Speed(ProgressColumn):
        # rich's TaskProgressColumn shows a speed only without a total, and rounds one item in 30 s to 0.0.
        def render(self, task: Task) -> Text:
            return Text("" if task.speed is None else f"{task.speed:.2f} per s")

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Speed(), TimeRemainingColumn())
    return Progress(*columns, console=console)


def emit(value: Any) -> None:
    """Print one JSON object on one line of stdout.

    Raises:
        ValueError: the value holds NaN or infinity, which JSON does not have.
    """
    sys.stdout.write(json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n")
    sys.stdout.flush()
