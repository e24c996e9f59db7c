"""The library composed into things people call: one class, one call, one result.

>>> from pipelines import ReferringSegmentation
>>> pipe = ReferringSegmentation.from_pretrained("starter")  # doctest: +SKIP
>>> pipe("scene.png", "the small red star").save("out")  # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipelines.describe import Caption, Description, FaithfulDescription, NounSupport
    from pipelines.referring import ReferringResult, ReferringSegmentation

__all__ = [
    "Caption",
    "Description",
    "FaithfulDescription",
    "NounSupport",
    "ReferringResult",
    "ReferringSegmentation",
]

_HOMES = {
    "Caption": "pipelines.describe",
    "Description": "pipelines.describe",
    "FaithfulDescription": "pipelines.describe",
    "NounSupport": "pipelines.describe",
    "ReferringResult": "pipelines.referring",
    "ReferringSegmentation": "pipelines.referring",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is asked for, so that the command line's help waits for nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'pipelines' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
