"""Which class is which task. Adding one is one line here."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from grounding.errors import EvalDataError

TASKS: dict[str, str] = {
    "amber": "evals.tasks.amber:AmberTask",
    "chair": "evals.tasks.chair:ChairTask",
    "hallusion": "evals.tasks.hallusion:HallusionTask",
    "mmhal": "evals.tasks.mmhal:MMHalTask",
    "pope": "evals.tasks.pope:PopeTask",
    "scenes-hallucination": "evals.tasks.scenes:ScenesTask",
}


def task_class(name: str) -> type[Any]:
    """The class of a task, a frozen dataclass that is a `evals.tasks.base.Task`.

    Raises:
        EvalDataError: there is no task of this name.
    """
    if name not in TASKS:
        raise EvalDataError(f"there is no task {name!r}: the tasks are {', '.join(TASKS)}")
    module, _, attribute = TASKS[name].partition(":")
    return getattr(import_module(module), attribute)
