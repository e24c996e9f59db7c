"""Attention kernels: transformers' registry, and torch's own with their log-sum-exp."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

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


@contextmanager
def looked_up_kernels(
    wrap: Callable[[str, Kernel], Kernel], depends_on: Callable[[], object] = lambda: True
) -> Iterator[None]:
    """Wrap every attention kernel that a transformers module looks up inside the block.

    The config keeps the kernel's name, so classes that branch on it (sparse attention, flash paths) behave as without
    the block. Both `get_interface` and the registry's `[]` are wrapped, because modules use either. What `wrap` made of
    a kernel is kept as long as the registry has that kernel, so that a look-up costs no more than without the block.

    Args:
        wrap: a function from the kernel's name and the kernel to the kernel to call in its place.
        depends_on: what else `wrap` decides by; what it made while this is true and while it is false is kept apart.
    """
    from transformers import AttentionInterface
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    get_interface, get_item = AttentionInterface.get_interface, AttentionInterface.__getitem__
    made: dict[tuple[str | None, Kernel, bool], tuple[Kernel | None, Kernel]] = {}  # registered, wrapped

    def looked_up(self: Any, attn_implementation: str | None, default: Kernel) -> Kernel:
        kernel = get_interface(self, attn_implementation, default)
        # A registered kernel has already been wrapped by `[]`; the module's own eager function has not.
        return wrap(attn_implementation or "eager", kernel) if kernel is default else kernel

    def wrapped_get_interface(self: Any, attn_implementation: str | None, default: Kernel) -> Kernel:
        if self is not ALL_ATTENTION_FUNCTIONS or torch.compiler.is_compiling():
            return looked_up(self, attn_implementation, default)
        registered = self._local_mapping.get(attn_implementation) or self._global_mapping.get(attn_implementation)
        question = attn_implementation, default, bool(depends_on())
        known = made.get(question)
        if known is None or known[0] is not registered:
            known = made[question] = registered, looked_up(self, attn_implementation, default)
        return known[1]

    def wrapped_get_item(self: Any, name: str) -> Kernel:
        return wrap(name, get_item(self, name))

    def contains(self: Any, name: str) -> bool:  # `in` would look up by `[]`
        try:
            get_item(self, name)
        except KeyError:
            return False
        return True

    wrapped = {"get_interface": wrapped_get_interface, "__getitem__": wrapped_get_item, "__contains__": contains}
    own = {name: function for name, function in vars(AttentionInterface).items() if name in wrapped}
    for name, function in wrapped.items():
        setattr(AttentionInterface, name, function)
    try:
        yield
    finally:
        for name in wrapped:
            if name in own:
                setattr(AttentionInterface, name, own[name])
            else:
                delattr(AttentionInterface, name)


def layer_settings(config: Any, name: str) -> list[int]:
    """Return a whole number of a transformers config, one per layer where it differs by layer.

    A config of layers that differ raises when the number of the whole model is asked for.

    Args:
        config: of the text model.
        name: such as `head_dim`.

    Returns:
        One number, or one per layer; none where the config does not have it.
    """
    layers = config.per_layer_config if getattr(config, "is_heterogeneous", False) else [config]
    found = [getattr(one, name, None) for one in layers]
    return [int(value) for value in found if value is not None]


def attention_with_lse(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> tuple[Tensor, Tensor] | None:
    """Run the kernel that torch's `scaled_dot_product_attention` would choose, and return its log-sum-exp as well.

    The arguments are those of `scaled_dot_product_attention`.

    Returns:
        (output [B, H, Q, Dv], bit for bit that of the function; log-sum-exp [B, H, Q] float32), or None where the
        chosen kernel gives no sum: attention written out, dropout, gradients, shared key heads, and on a GPU
        masks and head widths that the kernel would have to pad.
    """
    gradients = torch.is_grad_enabled() and any(x.requires_grad for x in (query, key, value))
    if dropout_p > 0 or enable_gqa or gradients or query.ndim != 4:
        return None
    kernel = torch._fused_sdp_choice(query, key, value, attn_mask, dropout_p, is_causal, scale=scale)
    flash, efficient, cudnn = 1, 2, 3  # torch.nn.attention.SDPBackend
    aten = torch.ops.aten
    if query.device.type == "cpu" and kernel == flash:
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill(~attn_mask, -torch.inf)
        output, lse = aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale
        )
        return output, lse.float()
    if query.device.type != "cuda" or attn_mask is not None or query.shape[-1] % 8 or value.shape[-1] % 8:
        return None
    if kernel == flash:
        output, lse, *_ = aten._scaled_dot_product_flash_attention(
            query, key, value, dropout_p, is_causal, False, scale=scale
        )
    elif kernel == efficient:
        output, lse, *_ = aten._scaled_dot_product_efficient_attention(
            query, key, value, None, True, dropout_p, is_causal, scale=scale
        )
    elif kernel == cudnn:
        output, lse, *_ = aten._scaled_dot_product_cudnn_attention(
            query, key, value, None, True, dropout_p, is_causal, False, scale=scale
        )
        lse = lse.squeeze(-1) if lse.ndim == query.ndim else lse
    else:
        return None
    return output, lse[..., : query.shape[2]].float()  # some kernels round the number of queries up
