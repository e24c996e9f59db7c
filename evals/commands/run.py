"""`grounding eval run TASK`: run a registered task with a model; `grounding eval join`: join shards into one run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Union

import tyro

from evals.commands.generation import GenerationOptions, print_scores
from evals.tasks.registry import TASKS, task_class
from grounding.errors import EvalDataError, UsageError


@dataclass(frozen=True)
class UnusableTask:
    """A task of another distribution that cannot be imported or used."""

    reason: ClassVar[str] = ""


def _options(name: str) -> type[Any]:
    """The task's class; one without options in place of a task that cannot be used, so that the others still can."""
    try:
        return task_class(name)
    except EvalDataError as wrong:
        return type(UnusableTask.__name__, (UnusableTask,), {"reason": str(wrong), "__doc__": f"Unusable: {wrong}."})


if TYPE_CHECKING:
    Tasks = Any
else:
    # Every task is a sub-command; its fields are the options.
    Tasks = Union[tuple(Annotated[_options(name), tyro.conf.subcommand(name)] for name in TASKS)]  # noqa: UP007


@dataclass(frozen=True, kw_only=True)
class EvalRunCommand(GenerationOptions):
    """Run a task with a model; write its answers, one line per sample, and its scores to the folder --out.

    The same command resumes an interrupted run; the result is byte-identical to that of an uninterrupted one. Under
    `accelerate launch`, `torchrun` or `mpirun` the processes divide the batches without communicating, so they only
    need to share the folder. `grounding eval chair --model ...` and the like do the same.

    Exit codes: 0 success; 1 some samples failed, each with its reason in its line; 2 refused.

    Attributes:
        task: the task and its options.
    """

    task: Tasks

    def run(self) -> int:
        """Answer, score and print.

        Raises:
            EvalDataError: the task's own distribution is broken.
        """
        if isinstance(self.task, UnusableTask):
            raise EvalDataError(self.task.reason)
        return self.put(self.task)


@dataclass(frozen=True, kw_only=True)
class EvalJoinCommand:
    """Join shards that were run into separate folders, and score the whole run.

    A single folder is scored again.

    Attributes:
        folders: run folders of one configuration that together hold an answer to every sample.
        out: folder of the joined run; the first of the folders if left out.
        json: print one JSON object on stdout instead of the tables.
    """

    folders: Annotated[tuple[Path, ...], tyro.conf.Positional]
    out: Path | None = None
    json: bool = False

    def run(self) -> int:
        """Join, score and print."""
        from evals.runner import join
        from evals.runs import RunFolder
        from grounding.runs.folder import EVALUATION

        if not self.folders:
            raise UsageError("no folder was given: give the folders of the shards")
        out = self.out or self.folders[0]
        with EVALUATION.hold(out, "samples"):
            return print_scores(join([RunFolder(folder) for folder in self.folders], out), self.json)
