"""Options of every command that can run a task with a model, and the run itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from grounding import schema
from grounding.console import emit, progress_bar, stderr, stdout
from grounding.errors import UsageError

if TYPE_CHECKING:
    from evals.plan import Plan, Worker
    from evals.runner import Run
    from evals.task import Answer, Task
    from grounding.models.base import VLM

T = TypeVar("T")


def check_seed(seed: int) -> None:
    """Refuse a seed that NumPy's and torch's generators do not take.

    Raises:
        UsageError: it is below 0.
    """
    if seed < 0:
        raise UsageError(f"--seed {seed} was given, expected a seed from 0")


def print_scores(run: Run, as_json: bool) -> int:
    """Score a run whose samples are all answered, and print the scores.

    Returns:
        Exit code: 0, or 1 if some samples failed.
    """
    scores, scored = run.finish()
    if as_json:
        emit(scores)
    else:
        stdout().print(scored.text)
    if not scores["failed"]:
        return 0
    stderr().print(f"{scores['failed']} of {scores['samples']} samples failed, see {run.folder.path / 'samples.jsonl'}")
    return 1


@dataclass(frozen=True, kw_only=True)
class GenerationOptions:
    """Which model answers, with which steering and decoding, and the folder of the run.

    Attributes:
        model: `starter` (knows drawn scenes only), `starter-photo`, a folder written by save_pretrained, or a hub id.
        steer: a shipped steering method's name, or a YAML file; the model as it is if left out.
        out: folder of the run: manifest.json, samples.jsonl, scores.json. The same command resumes a stopped run.
        limit: most samples, drawn with the seed; 0 is all.
        shard: "i/n" answers only the i-th of n parts (from 0). Parts that share a folder join by themselves; `grounding
            eval join` joins folders. Parts consist of whole batches, so sharding does not change the answers.
        batch_size: samples per batch; texts can depend on it, so it is part of a run's configuration.
        max_new_tokens: longest answer in tokens; the task's own limit if left out.
        num_beams: number of beams; 1 is greedy search or sampling.
        do_sample: sample tokens; each batch has its own seed, derived from --seed and the batch's samples.
        temperature: of sampling.
        top_p: probability mass of nucleus sampling.
        seed: of the choice of samples, of sampling, and of the bootstrap.
        device: `auto`, `cpu`, `cuda`, `cuda:1` or `mps`.
        dtype: `auto`, `float32`, `bfloat16` or `float16`.
        device_map: spread the model over several devices: `auto`.
        family: `probe` for a model without a family here, or a model type to read it as; its own if left out.
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
    family: str | None = None
    json: bool = False

    def generates(self, answers: object, option: str) -> bool:
        """Whether a model is to answer, or existing answers are to be scored.

        Args:
            answers: the value of the option for existing answers.
            option: that option's name on the command line.

        Raises:
            UsageError: both were given, or neither, or the seed is below 0.
        """
        check_seed(self.seed)
        if bool(answers) == bool(self.model):
            said = f"both {option} and --model were" if answers else f"neither {option} nor --model was"
            raise UsageError(
                f"{said} given: give {option} to score answers that exist, or --model to have a model answer"
            )
        return bool(self.model)

    def as_task(self, kind: type[T]) -> T:
        """Build the task from the command's own options."""
        return kind(**{one.name: getattr(self, one.name) for one in fields(kind)})  # type: ignore[arg-type]

    def put(self, task: Task) -> int:
        """Run the task with the model, score the answers, and print.

        Returns:
            Exit code: 0, or 1 if some samples failed.

        Raises:
            UsageError: no model or no folder was given, or an option is out of range.
            EvalDataError: the data cannot be used.
            GroundingError: model, method or folder cannot be used.
        """
        from evals.plan import worker
        from evals.runner import Run
        from grounding.runs.folder import EVALUATION

        check_seed(self.seed)
        if not self.model or self.out is None:
            missing = "--model" if not self.model else "--out"
            raise UsageError(f"{missing} is missing: a run needs a model that answers, and a folder for its answers")
        me = worker(self.shard)
        task = self._reworded(task, me)
        plan = self._plan(task)
        with EVALUATION.hold(self.out, me.part):
            return self._answer(Run.begin(task, plan, self.out), plan, me)

    def _answer(self, run: Run, plan: Plan, me: Worker) -> int:
        """Answer what is left for this worker, and score and print what is complete."""
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
        code = print_scores(run, self.json)
        # A launcher takes any other exit code for a crash and ends the other processes.
        return 0 if me.launched else code

    def _reworded(self, task: Task, me: Worker) -> Task:
        """The task in the model's own words, with a note where they replace a protocol's."""
        from evals.tasks.protocols import Rewordable
        from grounding.models.load import own_words

        if not isinstance(task, Rewordable):
            return task
        asked = task.in_words_of(own_words(self.model, self.family))
        if asked != task and me.is_main:
            new = [(name, value) for name, value in schema.plain(asked).items() if schema.plain(task)[name] != value]
            said = ", ".join(f"{'--prompt' if name == 'words' else f'--{name}'} {value!r}" for name, value in new)
            stderr().print(f"note: {self.model} is asked in words of its own, as with {said}; give others to change it")
        return asked

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
            family=self.family,
        )

    def _work(self, run: Run, todo: Sequence[Any], plan: Plan, me: Worker) -> None:
        from evals.task import Particular
        from grounding.runs.provenance import versions

        before = run.manifest["versions"]
        changed = [name for name, value in versions().items() if before.get(name) != value]
        if changed:
            stderr().print(f"note: the run was begun with another version of {', '.join(changed)}; texts may differ")
        vlm = self._load(me)
        if isinstance(run.task, Particular):
            run.task.check_model(vlm)
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
        vlm = load(self.model, me.device(self.device), self.dtype, self.device_map, family=self.family)
        if vlm.notice and me.is_main:
            stderr().print(f"note: {vlm.notice}")
        return vlm
