"""The two voices of the command line: results on stdout, everything else on stderr."""

from __future__ import annotations

import json
import sys
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


@cache
def talk() -> Console:
    """The console for people: progress, notices and warnings, on stderr."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, markup=False, soft_wrap=True)


@cache
def results() -> Console:
    """The console for tables and lists that are the command's result, on stdout."""
    from rich.console import Console

    return Console(highlight=False, markup=False, soft_wrap=True)


def emit(value: Any) -> None:
    """Print one JSON object on one line of stdout; NaN and infinity are refused because JSON has neither."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n")
    sys.stdout.flush()
