"""The options that every command shares which can put its task to a model, and what it then does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from evals.commands.checks import check_seed
from grounding.console import emit, progress_bar, stderr, stdout
from grounding.errors import EvalDataError

if TYPE_CHECKING:
    from evals.plan import Plan, Worker
    from evals.runner import Run
    from evals.tasks.base import Answer, Task
    from grounding.models.base import VLM

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class GenerationOptions:
    """Which model answers, steered how, and where the run goes.

    Attributes:
        model: `starter` (knows drawn scenes only), `starter-photo`, a folder written by save_pretrained, or a hub id.
        steer: a shipped steering method's name, or a YAML file; the model as it is if left out.
        out: folder of the run: manifest.json, samples.jsonl, scores.json. The same command goes on where it stopped.
        limit: at most so many samples, drawn with the seed; 0 is all.
        shard: "i/n" answers only the i-th of n parts (from 0); into one folder they join by themselves, folders of
            their own are joined by `grounding eval join`. Parts are made of whole batches, so that they change nothing.
        batch_size: samples that are generated together; texts can depend on it, so it belongs to a run.
        max_new_tokens: the longest answer in tokens; the task's own if left out.
        num_beams: beams; 1 is greedy search or sampling.
        do_sample: draw tokens; each batch has a seed of its own, made of --seed and what is in it.
        temperature: of the draws.
        top_p: share of the probability mass that is drawn from.
        seed: of everything that is drawn: samples, tokens, bootstrap.
        device: `auto`, `cpu`, `cuda`, `cuda:1` or `mps`.
        dtype: `auto`, `float32`, `bfloat16` or `float16`.
        device_map: spread the model over several devices: `auto`.
        json: print one JSON object on stdout instead of the tables.
    """

    model: str = ""
    steer: str = ""
    out: Path | None = None
    limit: int = 0
    shard: str = ""
    batch_size: int = 8
    max_new_tokens: int = 0
    num_beams: int = 1
    do_sample: bool = False
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0
    device: str = "auto"
    dtype: str = "auto"
    device_map: str | None = None
    json: bool = False

    def generates(self, answers: object, option: str) -> bool:
        """Whether a model is to answer, rather than answers that exist already.

        Args:
            answers: what was given as such.
            option: what that is called on the command line.

        Raises:
            EvalDataError: both were given, or neither.
        """
        if bool(answers) == bool(self.model):
            said = f"both {option} and --model were" if answers else f"neither {option} nor --model was"
            raise EvalDataError(
                f"{said} given: give {option} to score answers that exist, or --model to have a model answer"
            )
        return bool(self.model)

    def as_task(self, kind: type[T]) -> T:
        """The task whose options are among the command's own."""
        return kind(**{one.name: getattr(self, one.name) for one in fields(kind)})  # type: ignore[arg-type]

    def put(self, task: Task) -> int:
        """Have the model answer the task's samples, score them, and print.

        Returns:
            0, or 1 if some samples failed.

        Raises:
            EvalDataError: no model or no folder was given, or the data cannot be used.
            GroundingError: model, method or folder cannot be used.
        """
        from evals.plan import worker
        from evals.runner import Run

        check_seed(self.seed)
        if not self.model or self.out is None:
            missing = "--model" if not self.model else "--out"
            raise EvalDataError(f"{missing} is missing: a run needs a model that answers, and a folder for its answers")
        plan, me = self._plan(task), worker(self.shard)
        run = Run.begin(task, plan, self.out)
        todo = run.left(me, plan.batch_size)
        if todo:
            self._work(run, todo, plan, me)
        waiting = run.answered().count(None)
        if waiting:
            if me.is_main:
                stderr().print(
                    f"done here; {waiting} of {len(run.samples)} samples are left to other processes or shards"
                )
            return 0
        scores, scored = run.finish()
        if self.json:
            emit(scores)
        else:
            stdout().print(scored.text)
        if scores["failed"]:
            stderr().print(
                f"{scores['failed']} of {scores['samples']} samples failed, see {self.out / 'samples.jsonl'}"
            )
        # A launcher takes any other code for a crash, and ends the processes beside.
        return 1 if scores["failed"] and not me.launched else 0

    def _plan(self, task: Task) -> Plan:
        from evals.plan import Plan
        from grounding.steering.decoding import Decoding
        from grounding.steering.method import load_steering

        return Plan(
            model=self.model,
            steering=load_steering(self.steer) if self.steer else None,
            decoding=Decoding(
                max_new_tokens=self.max_new_tokens or task.max_new_tokens,
                num_beams=self.num_beams,
                do_sample=self.do_sample,
                temperature=self.temperature,
                top_p=self.top_p,
                seed=self.seed,
            ),
            batch_size=self.batch_size,
            limit=self.limit,
            seed=self.seed,
            device=self.device,
            dtype=self.dtype,
            device_map=self.device_map,
        )

    def _work(self, run: Run, todo: Sequence[Any], plan: Plan, me: Worker) -> None:
        from pipelines.provenance import versions

        before = run.manifest["versions"]
        changed = [name for name, value in versions().items() if before.get(name) != value]
        if changed:
            stderr().print(f"note: the run was begun with another version of {', '.join(changed)}; texts may differ")
        vlm = self._load(me)
        with progress_bar(stderr()) as progress:
            total = sum(len(batch) for _, batch in todo)
            bar = progress.add_task(f"eval {run.task.name}", total=total, visible=me.is_main)

            def report(answers: Sequence[Answer]) -> None:
                progress.advance(bar, len(answers))
                for one in answers:
                    if one.error:
                        stderr().print(f"failed: {one.id}: {one.error}")

            run.work(todo, vlm, plan, me, report)

    def _load(self, me: Worker) -> VLM:
        from transformers.utils.logging import disable_progress_bar

        from grounding.models.load import load

        disable_progress_bar()
        vlm = load(self.model, me.device(self.device), self.dtype, self.device_map)
        if vlm.notice and me.is_main:
            stderr().print(f"note: {vlm.notice}")
        return vlm
