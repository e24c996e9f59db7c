r"""Output of the command line: results on stdout, progress and notices on stderr.

Text for people is written in the stream's own encoding, with escapes (`\u72d7`) for letters that it lacks. JSON is
written in ASCII, which every encoding in use can carry, so it is valid wherever it goes.
"""

from __future__ import annotations

import io
import json
import sys
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
    """Print one JSON object on one line of stdout, in ASCII.

    Raises:
        ValueError: the value holds NaN or infinity, which JSON does not have.
    """
    sys.stdout.write(json.dumps(value, allow_nan=False) + "\n")
    sys.stdout.flush()
