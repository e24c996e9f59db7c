"""Wrap every private API of a dependency that this library uses, each in one function.

The oldest supported transformers release is 5.2.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn

Kernel = Callable[..., Any]


def kernel_name(config: Any) -> str:
    """Return the name of the attention kernel that a transformers config selects; `eager` where none is set."""
    return str(config._attn_implementation or "eager")


def known_kernels() -> tuple[str, ...]:
    """Return the names of the attention kernels registered with transformers, sorted, without `eager`."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    return tuple(sorted(ALL_ATTENTION_FUNCTIONS))


def is_flash(name: str) -> bool:
    """Whether a registered kernel takes its mask in the form of flash kernels, [B, K] padding or None."""
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

    mask = ALL_MASK_ATTENTION_FUNCTIONS.get(name)
    return mask is not None and mask is ALL_MASK_ATTENTION_FUNCTIONS.get("flash_attention_2")


def sdpa_kernel() -> Kernel:
    """Return transformers' kernel that calls torch's `scaled_dot_product_attention`."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    return sdpa_attention_forward


def hub_commit(name: str) -> str:
    """Return the commit of a hub model that transformers would load now; only its config.json is fetched.

    Without a network the local cache decides.

    Raises:
        OSError: the hub does not know the model, or cannot be reached and the model is not in the local cache.
    """
    from transformers.utils.hub import cached_file

    return Path(str(cached_file(name, "config.json"))).parent.name  # .../snapshots/COMMIT/config.json


@contextmanager
def looked_up_kernels(wrap: Callable[[str, Kernel], Kernel]) -> Iterator[None]:
    """Wrap every attention kernel that a transformers module looks up inside the block.

    The config keeps the kernel's name, so classes that branch on it (sparse attention, flash paths) behave as without
    the block. Both `get_interface` and the registry's `[]` are wrapped, because modules use either.

    Args:
        wrap: a function from the kernel's name and the kernel to the kernel to call in its place.
    """
    from transformers import AttentionInterface

    get_interface, get_item = AttentionInterface.get_interface, AttentionInterface.__getitem__
    own_get_item = "__getitem__" in vars(AttentionInterface)

    def wrapped_get_interface(self: Any, attn_implementation: str, default: Kernel) -> Kernel:
        kernel = get_interface(self, attn_implementation, default)
        # A registered kernel has already been wrapped by `[]`; the module's own eager function has not.
        return (
            kernel if getattr(kernel, "is_wrapped_kernel", False) else _marked(attn_implementation or "eager", kernel)
        )

    def wrapped_get_item(self: Any, name: str) -> Kernel:
        return _marked(name, get_item(self, name))

    def _marked(name: str, kernel: Kernel) -> Kernel:
        wrapped = wrap(name, kernel)
        if wrapped is not kernel:
            wrapped.is_wrapped_kernel = True  # type: ignore[attr-defined]
        return wrapped

    AttentionInterface.get_interface = wrapped_get_interface
    AttentionInterface.__getitem__ = wrapped_get_item
    try:
        yield
    finally:
        AttentionInterface.get_interface = get_interface
        if own_get_item:
            AttentionInterface.__getitem__ = get_item
        else:
            del AttentionInterface.__getitem__


def is_compiled(module: nn.Module) -> bool:
    """Whether a module is compiled by `torch.compile`, in place or as a wrapper."""
    return module._compiled_call_impl is not None or type(module).__name__ == "OptimizedModule"


def cache_argument(module: nn.Module) -> str:
    """Return the name of a module's cache argument: `cache` since transformers 5.24, `past_key_values` before."""
    return "cache" if "cache" in inspect.signature(module.forward).parameters else "past_key_values"


def generation_positions(model: Any, inputs: Mapping[str, Tensor]) -> Tensor | None:
    """Compute the position ids that `generate` passes for a prompt.

    Args:
        model: a transformers model with `generate`.
        inputs: the prompt, by the model's argument names.

    Returns:
        [B, N] or [4, B, N]; None where the model's forward computes its own.
    """
    find = getattr(model, "_prepare_position_ids_for_generation", None)
    if find is None:
        return None
    positions: Tensor = find(inputs["input_ids"], dict(inputs))
    return positions


@contextmanager
def hub_offline() -> Iterator[None]:
    """Let huggingface_hub, and the libraries that fetch through it, use its cache alone inside the block.

    Its environment variable does the same, but is read once, when the package is imported.
    """
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
