"""Pipelines of diffusers."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from grounding.compat.kernels import Kernel


@contextmanager
def dispatched_kernels(wrap: Callable[[str, Kernel, frozenset[str]], Kernel]) -> Iterator[None]:
    """Wrap every attention kernel of diffusers' dispatcher inside the block.

    diffusers looks a kernel up at every call and filters its arguments by a table that was made at registration, so a
    replaced entry is called with the arguments of the kernel it stands for.

    Args:
        wrap: a function from the kernel's name, the kernel and the names of its arguments to the kernel to call in its
            place.
    """
    from diffusers.models.attention_dispatch import _AttentionBackendRegistry as Registry

    kernels = dict(Registry._backends)
    for name, kernel in kernels.items():
        Registry._backends[name] = wrap(str(name.value), kernel, frozenset(Registry._supported_arg_names[name]))
    try:
        yield
    finally:
        Registry._backends.update(kernels)


def pipeline_dtype_argument() -> str:
    """Return the name of the number format in a pipeline's `from_pretrained`: `dtype`, or before it `torch_dtype`."""
    from diffusers import DiffusionPipeline

    return "dtype" if 'pop("dtype"' in inspect.getsource(DiffusionPipeline.from_pretrained) else "torch_dtype"
