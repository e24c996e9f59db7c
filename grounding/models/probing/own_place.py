"""Let each place of a vision tower read itself alone, so that a change of the picture stays where it was made.

What probing asks is which part of the picture a token stands for. Attention over the whole picture would spread every
change to all tokens, and convolutions whose windows overlap would spread it to the neighbours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

_SOFTMAX = (F.softmax, torch.softmax, Tensor.softmax)
_CONV2D = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")


class OwnPlace(TorchFunctionMode):
    """Replace what mixes places, in this thread, while the mode is active.

    - Attention: each query attends to the key of its own place alone. Attention between two sequences of different
      length is left as it is.
    - Convolutions in two dimensions whose windows are longer than their stride: of each window the part that no other
      window holds too is kept, so that windows tile the picture.
    - Features that are made larger by interpolation: each is repeated.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run `func`, or what replaces it."""
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            query, key, value = (*args, *(kwargs[name] for name in ("query", "key", "value")[len(args) :]))[:3]
            if query.shape[-2] == key.shape[-2]:
                return value.repeat_interleave(query.shape[-3] // value.shape[-3], dim=-3)
        if func is torch.conv2d:
            given = dict(zip(_CONV2D, args, strict=False)) | kwargs
            return func(**given | {"weight": own_window(**given)})
        if func is F.interpolate:
            return func(*args, **_repeated(args, kwargs))
        result = func(*args, **kwargs)
        if func in _SOFTMAX and result.ndim >= 3 and result.shape[-1] == result.shape[-2] > 1:
            return torch.eye(result.shape[-1], dtype=result.dtype, device=result.device).expand_as(result)
        return result


def own_window(weight: Tensor, stride: Any = 1, padding: Any = 0, **others: Any) -> Tensor:
    """A convolution's kernel with zeros where its windows overlap.

    A window of `k` pixels at stride `s` keeps `s` of them: from the first that lies in the picture where the
    convolution pads, else around the window's middle.

    Args:
        weight: [..., height, width] the kernel.
        stride: one number, or one for each axis.
        padding: likewise, or a name.
        others: arguments of the convolution that do not matter here.
    """
    kept = torch.zeros(weight.shape[-2:], dtype=torch.bool, device=weight.device)
    spans = []
    for axis, length in enumerate(weight.shape[-2:]):
        step = min(stride if isinstance(stride, int) else stride[axis % len(stride)], length)
        pad = 0 if isinstance(padding, str) else padding if isinstance(padding, int) else padding[axis % len(padding)]
        start = pad if 0 < pad <= length - step else (length - step) // 2
        spans.append(slice(start, start + step))
    kept[spans[0], spans[1]] = True
    return weight * kept


def _repeated(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The options of an interpolation, which repeats its input where it makes it larger in two dimensions."""
    size = kwargs.get("size")
    if len(args) != 1 or size is None or args[0].ndim != 4 or kwargs.get("mode") not in ("bilinear", "bicubic"):
        return kwargs
    sides = (size, size) if isinstance(size, int) else tuple(size)
    if any(new < old for new, old in zip(sides, args[0].shape[-2:], strict=True)):
        return kwargs
    return {name: value for name, value in kwargs.items() if name not in ("align_corners", "antialias")} | {
        "mode": "nearest-exact"
    }
