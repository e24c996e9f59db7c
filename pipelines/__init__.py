"""Pipelines: one class, one call and one result type per use.

>>> from pipelines import ReferringSegmentation
>>> pipe = ReferringSegmentation.from_pretrained("starter")  # doctest: +SKIP
>>> pipe("scene.png", "the small red star").save("out")  # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipelines.answer_maps import AnswerMaps, MappedAnswer
    from pipelines.describe import FaithfulDescription
    from pipelines.open_ended import OpenEndedSegmentation
    from pipelines.open_ended_result import Instance, OpenEndedResult
    from pipelines.open_ended_settings import DiscoverySettings
    from pipelines.referring import ReferringSegmentation
    from pipelines.results import Caption, Description, MappedWord, NounSupport, ReferringResult

__all__ = [
    "AnswerMaps",
    "Caption",
    "Description",
    "DiscoverySettings",
    "FaithfulDescription",
    "Instance",
    "MappedAnswer",
    "MappedWord",
    "NounSupport",
    "OpenEndedResult",
    "OpenEndedSegmentation",
    "ReferringResult",
    "ReferringSegmentation",
]

_HOMES = {
    "AnswerMaps": "pipelines.answer_maps",
    "Caption": "pipelines.results",
    "Description": "pipelines.results",
    "DiscoverySettings": "pipelines.open_ended_settings",
    "FaithfulDescription": "pipelines.describe",
    "Instance": "pipelines.open_ended_result",
    "MappedAnswer": "pipelines.answer_maps",
    "MappedWord": "pipelines.results",
    "NounSupport": "pipelines.results",
    "OpenEndedResult": "pipelines.open_ended_result",
    "OpenEndedSegmentation": "pipelines.open_ended",
    "ReferringResult": "pipelines.results",
    "ReferringSegmentation": "pipelines.referring",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that `import pipelines` imports no torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'pipelines' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
