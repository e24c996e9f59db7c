"""`grounding lab`: compare steering methods on drawn scenes with planted co-occurrences, offline."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grounding.console import emit, progress_bar, stderr, stdout
from grounding.errors import ModelError

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from evals.lab.plan import LabCandidate, LabPlan
    from evals.task import Answer
    from evals.tasks.scenes import ScenesTask
    from grounding.models.base import VLM
    from grounding.steering.method import Steering


@dataclass(frozen=True, kw_only=True)
class LabCommand:
    """Compare steering methods on scenes whose truth is exact and whose misleading co-occurrences are planted.

    Every method is tuned on validation scenes by one rule (lowest CHAIR_I at preserved recall and length) over the same
    maximal number of settings, and reported on test scenes with intervals paired by scene. Answers are stored in the
    output folder, so the same command resumes after an interruption.

    The shipped plan's model is the small model of drawn scenes, trained on to expect shapes that occur together. It is
    made once, in some minutes, by `python -m grounding.starter.habits_train --out runs/habits`. `make lab` does both.

    Attributes:
        plan: YAML file of methods and grids; the shipped plan if left out.
        model: instead of the plan's model.
        family: `probe` for a model without a family here, or a model type to read it as; its own if
            left out.
        out: folder for run folders, `lab.json`, `lab.txt` and `lab.png`.
        limit: instead of the plan's numbers of scenes, for a quick look.
        batch_size: questions per batch.
        json: print one JSON object on stdout instead of the tables.
    """

    plan: Path | None = None
    model: str | None = None
    family: str | None = None
    out: Path = Path("runs/lab")
    limit: int | None = None
    batch_size: int = 64
    json: bool = False

    def run(self) -> int:
        """Run or resume the lab, and print tables or one JSON object."""
        from evals.lab.plan import load_plan
        from grounding.runs.lock import hold

        plan = load_plan(self.plan)
        if self.model:
            plan = replace(plan, model=self.model, made_by="")
        if self.limit is not None:
            plan = replace(plan, calibration_scenes=self.limit, validation_scenes=self.limit, test_scenes=self.limit)
        if plan.made_by and not Path(plan.model).exists():
            raise ModelError(
                f"the lab's model {plan.model} is not there: make it first, in some minutes, with '{plan.made_by}', or "
                "give another one with --model"
            )
        with hold(self.out):
            return self._compare(plan)

    def _compare(self, plan: LabPlan) -> int:
        """Run or resume the lab in its folder."""
        from evals.lab.compare import question_count, run_lab
        from evals.lab.report import lab_json, lab_plot, lab_table, plan_json, verdicts
        from evals.tasks.scenes import ScenesTask
        from grounding.files import write_bytes, write_json, write_text
        from grounding.models.load import load
        from grounding.runs.provenance import short_hash, versions
        from grounding.scenes.known_words import check_scene_words

        vlm = load(plan.model, family=self.family)
        if vlm.notice:
            stderr().print(f"note: {vlm.notice}")
        check_scene_words(vlm)
        started = time.perf_counter()
        with progress_bar(stderr()) as progress:
            whole = progress.add_task("lab", total=question_count(plan))
            found = run_lab(
                plan,
                lambda *what: self._answers(plan, vlm, progress, whole, *what),
                lambda candidate: self._fitted(plan, candidate, vlm, progress),
            )
        settings = plan_json(plan)
        data: dict[str, Any] = {
            "task": "lab",
            **lab_json(found, plan, ScenesTask(plan.test_scenes, plan.test_seed)),
            "plan": settings,
            "config_hash": short_hash({"plan": settings, "task": asdict(ScenesTask(plan.test_scenes))}, 12),
            "versions": versions(),
            "seconds": round(time.perf_counter() - started, 1),
        }
        text = f"{lab_table(data)}\n\nagainst unsteered\n{verdicts(data)}"
        write_json(self.out / "lab.json", data)
        write_text(self.out / "lab.txt", text + "\n")
        write_bytes(self.out / "lab.png", lab_plot(data))
        if self.json:
            emit(data)
        else:
            stdout().print(text)
        return 0

    def _fitted(self, plan: LabPlan, candidate: LabCandidate, vlm: VLM, progress: Progress) -> Steering:
        """Fit a candidate's gains, or load them from the file of an earlier fit with the same settings."""
        from evals.lab.compare import calibration_sources
        from grounding.files import slug, write_text
        from grounding.steering.fitting import fit_gains
        from grounding.steering.method import load_steering

        assert candidate.fit is not None
        name, file = slug(candidate.name), self.fit_file(plan, candidate)
        if not file.exists():
            sources = calibration_sources(plan)
            bar = progress.add_task(f"fit/{name}", total=len(sources) * candidate.fit.passes)
            found = fit_gains(vlm, sources, candidate.fit, advance=lambda: progress.advance(bar))
            progress.remove_task(bar)
            write_text(file, found.steering(name, vlm.name, candidate.fit).to_yaml())
        return load_steering(file)

    def fit_file(self, plan: LabPlan, candidate: LabCandidate) -> Path:
        """Where a candidate's fitted gains are stored: a name of its own for every model, set of scenes and fit."""
        from grounding.files import slug
        from grounding.runs.provenance import model_identity, short_hash

        assert candidate.fit is not None
        what = {
            **asdict(model_identity(plan.model, family=self.family)),
            "seed": plan.calibration_seed,
            "scenes": plan.calibration_scenes,
        }
        settings = short_hash({**what, **asdict(candidate.fit)}, 8)
        return self.out / "fits" / f"{slug(candidate.name)}-{settings}.yaml"

    def _answers(
        self,
        plan: LabPlan,
        vlm: VLM,
        progress: Progress,
        whole: TaskID,
        name: str,
        task: ScenesTask,
        steering: Steering | None,
    ) -> tuple[Answer, ...]:
        """Run a task in a folder named by its configuration; existing answers are reused, and not counted as work."""
        from evals.plan import Plan, Worker, choose, config_of
        from evals.runner import Run
        from grounding.errors import EvalDataError
        from grounding.files import slug
        from grounding.runs.provenance import short_hash
        from grounding.steering.decoding import Decoding

        decoding = Decoding(max_new_tokens=task.max_new_tokens, seed=plan.seed)
        how = Plan(plan.model, steering, decoding, self.batch_size, seed=plan.seed)
        settings = config_of(task, choose(task, 0, plan.seed), how)
        run = Run.begin(task, how, self.out / "runs" / f"{slug(name)}-{short_hash(settings, 8)}")
        todo = run.left(Worker(), self.batch_size)
        asked = sum(len(batch) for _, batch in todo)
        progress.update(whole, total=(progress.tasks[whole].total or 0) - len(run.samples) + asked)
        bar = progress.add_task(name, total=asked)

        def report(answers: Sequence[Answer]) -> None:
            for one in (bar, whole):
                progress.advance(one, len(answers))

        run.work(todo, vlm, how, Worker(), report)
        progress.remove_task(bar)
        run.finish()
        answers = [one for one in run.answered() if one is not None]
        if failed := [one for one in answers if one.error]:
            raise EvalDataError(f"{len(failed)} samples of {run.folder.path} failed, the first: {failed[0].error}")
        return tuple(answers)
