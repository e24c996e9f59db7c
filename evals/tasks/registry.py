"""Find the class of an evaluation task by its name.

A task is one class and one line in the table below, or a class of another distribution under the entry-point group
`grounding.tasks`.
"""

from __future__ import annotations

from typing import Any

from grounding.errors import EvalDataError
from grounding.registry import Registry

TASKS: Registry[Any] = Registry(
    "task",
    "grounding.tasks",
    {
        "amber": "evals.tasks.amber:AmberTask",
        "chair": "evals.tasks.chair:ChairTask",
        "discover": "evals.tasks.discover:DiscoverTask",
        "hallusion": "evals.tasks.hallusion:HallusionTask",
        "mmhal": "evals.tasks.mmhal:MMHalTask",
        "pope": "evals.tasks.pope:PopeTask",
        "scenes-hallucination": "evals.tasks.scenes:ScenesTask",
    },
    members=("name", "version", "prompt", "max_new_tokens", "samples", "score"),
    error=EvalDataError,
)
"""Tasks by name; entry-point group `grounding.tasks`."""


def task_class(name: str) -> type[Any]:
    """Return the class of a task, a frozen dataclass that is an `evals.task.Task`.

    Raises:
        EvalDataError: there is no task of this name.
    """
    if name not in TASKS:
        raise EvalDataError(f"there is no task {name!r}{TASKS.unknown(name)}")
    return TASKS.get(name)
