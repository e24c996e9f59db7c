"""Attention weights recorded while a model runs with its own fast kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from grounding.attention.recorder import record as record
    from grounding.attention.request import Recording as Recording
    from grounding.attention.request import RowRequest as RowRequest

__all__ = ["Recording", "RowRequest", "record"]


def __getattr__(name: str) -> Any:
    # Torch is imported only when somebody records, so that the command line's help stays fast.
    if name == "record":
        from grounding.attention.recorder import record

        return record
    if name in ("Recording", "RowRequest"):
        from grounding.attention import request

        return getattr(request, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
