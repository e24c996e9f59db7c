"""Numbers on the command line that make no sense, refused before any work."""

from __future__ import annotations

from grounding.errors import MethodError


def check_seed(seed: int) -> None:
    """Refuse a seed that random generators do not take.

    Raises:
        MethodError: it is below 0.
    """
    if seed < 0:
        raise MethodError(f"--seed {seed} was given, expected a seed from 0")
