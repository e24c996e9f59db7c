"""Out-of-memory errors as one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from grounding.errors import ModelError


@contextmanager
def explain_out_of_memory(what: str, remedy: str) -> Iterator[None]:
    """Raise `ModelError` in place of an allocator's out-of-memory error.

    Args:
        what: the activity, as a clause: "loading llava-hf/llava-1.5-7b-hf".
        remedy: what the user can do about it.

    Raises:
        ModelError: memory ran out inside the block, on any device.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise ModelError(f"out of memory while {what}: {remedy}") from error
    except RuntimeError as error:
        # The CPU's and Apple's allocators raise a plain RuntimeError.
        if "can't allocate memory" in str(error) or "out of memory" in str(error).lower():
            raise ModelError(f"out of memory while {what}: {remedy}") from error
        raise
