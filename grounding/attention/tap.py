"""The fallback: listen to `scaled_dot_product_attention` itself, for decoders that call it without the registry."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from grounding.attention.rows import AttentionCall

Listener = Callable[[AttentionCall, Tensor], None]

_SDPA = torch.nn.functional.scaled_dot_product_attention


class SdpaTap(TorchFunctionMode):
    """While entered, shows every `F.scaled_dot_product_attention` call of this thread to a listener.

    The call's result is returned untouched. Fused kernels that bypass the function, and compiled code, are not seen.

    Args:
        listener: gets the call and its output as [B, Q, H, Dv].
    """

    def __init__(self, listener: Listener) -> None:
        super().__init__()
        self._listener = listener

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run `func`, and report it if it is attention."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        # A mode is off while its own handler runs, so what the listener computes is not listened to.
        if func is _SDPA:
            call = _described(*args, **kwargs)
            if call is not None:
                self._listener(call, result.transpose(1, 2))
        return result


def _described(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> AttentionCall | None:
    """The call in the recorder's form, None if it is not attention over a batch of heads."""
    if query.ndim != 4:
        return None
    mask = attn_mask
    if mask is not None:
        while mask.ndim < 4:
            mask = mask[None]
    return AttentionCall(
        query=query.detach(),
        key=key.detach(),
        value=value.detach(),
        mask=mask,
        scale=scale if scale is not None else query.shape[-1] ** -0.5,
        causal=is_causal,
    )
