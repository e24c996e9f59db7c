"""Numbers on the command line that make no sense, refused before any work."""

from __future__ import annotations

from grounding.errors import UsageError


def check_seed(seed: int) -> None:
    """Refuse a seed that random generators do not take.

    Raises:
        UsageError: it is below 0.
    """
    if seed < 0:
        raise UsageError(f"--seed {seed} was given, expected a seed from 0")
