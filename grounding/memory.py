"""Out-of-memory errors of every allocator, recognised in one place and reported in one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from grounding.errors import GroundingError, ModelError

OUT_OF_MEMORY = (
    "out of memory: lower --batch-size, choose a smaller --dtype (bfloat16), a smaller model or image, or --device cpu"
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that the host or the device ran out of memory.

    Torch is not imported: `torch.OutOfMemoryError` is a `RuntimeError` that says "out of memory". The CPU's and
    Apple's allocators raise a plain `RuntimeError`, so only their message identifies them.
    """
    if isinstance(error, MemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)


@contextmanager
def explain_out_of_memory(what: str, remedy: str, kind: type[GroundingError] = ModelError) -> Iterator[None]:
    """Re-raise out-of-memory errors of the block as one sentence.

    Args:
        what: the clause after "out of memory while", such as "loading llava-hf/llava-1.5-7b-hf on cuda".
        remedy: what to do about it, in the imperative.
        kind: the exception class to raise.

    Raises:
        GroundingError: of class `kind`, when memory ran out inside the block, on any device.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise kind(f"out of memory while {what}: {remedy}") from error
