"""Record attention weights while a model runs with its own fast kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from grounding.attention.recorder import record as record
    from grounding.attention.request import Recording as Recording
    from grounding.attention.request import RowRequest as RowRequest

__all__ = ["Recording", "RowRequest", "record"]


def __getattr__(name: str) -> Any:
    # Torch is imported when one of these is used, so that the command line's help stays fast.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from grounding.attention import recorder, request

    return recorder.record if name == "record" else getattr(request, name)
