"""`grounding eval run TASK`: any task of the registry put to a model; `grounding eval join`: shards into one run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Union

import tyro

from evals.commands.generation import GenerationOptions
from evals.tasks.registry import TASKS, task_class
from grounding.console import emit, stderr, stdout
from grounding.errors import EvalDataError

if TYPE_CHECKING:
    Tasks = Any
else:
    # Every task is a sub-command, with its fields as options.
    Tasks = Union[tuple(Annotated[task_class(name), tyro.conf.subcommand(name)] for name in TASKS)]  # noqa: UP007


@dataclass(frozen=True, kw_only=True)
class EvalRunCommand(GenerationOptions):
    """Put a task to a model: its answers, one line a sample, then its scores, in the folder --out.

    A run that was cut off, however, goes on where it stopped when the same command is given again, and ends with the
    same bytes. Under `accelerate launch`, `torchrun` or `mpirun` processes divide the batches; nothing is sent between
    them, so machines need only share the folder. `grounding eval chair --model ...` and the like are the same.

    Exit codes: 0 everything is done; 1 some samples failed, each with its sentence in its line; 2 refused.

    Attributes:
        task: what to ask.
    """

    task: Tasks

    def run(self) -> int:
        """Answer, score and print."""
        return self.put(self.task)


@dataclass(frozen=True, kw_only=True)
class EvalJoinCommand:
    """Put shards that were run into folders of their own into one folder, and score it.

    Given one folder alone, it is scored again.

    Attributes:
        folders: run folders of one configuration that between them hold an answer to every sample.
        out: where to; the first of the folders if left out.
        json: print one JSON object on stdout instead of the tables.
    """

    folders: Annotated[tuple[Path, ...], tyro.conf.Positional]
    out: Path | None = None
    json: bool = False

    def run(self) -> int:
        """Join, score and print."""
        from evals.runner import join
        from evals.runs import RunFolder

        if not self.folders:
            raise EvalDataError("no folder was given: give the folders of the shards")
        run = join([RunFolder(folder) for folder in self.folders], self.out or self.folders[0])
        scores, scored = run.finish()
        if self.json:
            emit(scores)
        else:
            stdout().print(scored.text)
        if scores["failed"]:
            stderr().print(f"{scores['failed']} of {scores['samples']} samples failed")
        return 1 if scores["failed"] else 0
