"""Outputs of a model that are not finite, reported in one sentence instead of being read as a text or a map."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from grounding.errors import ModelError


def overflow(what: str, dtype: torch.dtype) -> ModelError:
    """Make the error for an output that is NaN or infinite.

    Args:
        what: the subject of the sentence.
        dtype: the model's number format.
    """
    seen = f"{what} is not finite (NaN or infinity)"
    if dtype == torch.float16:
        return ModelError(
            f"{seen}: this model overflows in float16, whose largest number is 65504. Load it in bfloat16 "
            "(--dtype bfloat16) or float32"
        )
    name = str(dtype).removeprefix("torch.")
    return ModelError(f"{seen} in {name}: its weights or inputs are broken. Get the complete model again")


def refuse_overflow(logits: Tensor, name: str) -> None:
    """Check the logits of a pass; -inf is allowed, since models mask tokens with it.

    Args:
        logits: [..., V].
        name: of the model.

    Raises:
        ModelError: a value is NaN or +inf.
    """
    if bool(_broken(logits).any()):
        raise overflow(f"the output of {name}", logits.dtype)


@contextmanager
def finite_logits(model: Any, name: str, *, sampling: bool = False) -> Iterator[None]:
    """Check the logits of every pass inside the block, with one synchronisation at its end.

    Args:
        model: a transformers model; one without an output embedding is not checked.
        name: of the model.
        sampling: replace rows that are not finite by zeros, since drawing from them would end the process on a GPU.

    Raises:
        ModelError: a value was NaN or +inf; raised in place of the error that it led to inside the block.
    """
    head: nn.Module | None = model.get_output_embeddings()
    if head is None:
        yield
        return
    broken: Tensor | None = None
    dtype = torch.float32

    def after(module: nn.Module, args: tuple[Any, ...], logits: Tensor) -> Tensor | None:
        nonlocal broken, dtype
        rows = _broken(logits)  # [B, Q]
        now = rows.any()
        broken, dtype = now if broken is None else broken | now.to(broken.device), logits.dtype
        return logits.masked_fill(rows[..., None], 0.0) if sampling else None

    handle = head.register_forward_hook(after)
    try:
        yield
    except (RuntimeError, ValueError, IndexError):
        if broken is None or not bool(broken):
            raise
    finally:
        handle.remove()
    if broken is not None and bool(broken):
        raise overflow(f"the output of {name}", dtype)


def _broken(logits: Tensor) -> Tensor:
    """Return [...] bool, rows of [..., V] with a NaN or +inf; both make the maximum not less than infinity."""
    return ~(logits.amax(dim=-1) < torch.inf)
