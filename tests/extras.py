"""Mark tests that need an optional extra."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.util import find_spec
from typing import TypeVar

import pytest

Test = TypeVar("Test", bound=Callable[..., object])

# Set where the extras must be there, so that a test that would be skipped fails instead.
REQUIRED = bool(os.environ.get("GROUNDING_TEST_EXTRAS"))


def needs_extra(package: str, extra: str) -> Callable[[Test], Test]:
    """Skip a test where the package of an extra is not installed; mark it `extra`."""
    missing = not REQUIRED and find_spec(package) is None
    skip = pytest.mark.skipif(missing, reason=f"the extra '{extra}' is not installed")
    return lambda test: pytest.mark.extra(skip(test))
