"""`grounding eval mmhal`: have a judge of the user's choice rate answers to MMHal-Bench."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from evals.commands.generation import GenerationOptions
from evals.tasks.mmhal import MMHalTask, MMHalTaskOptions
from grounding.console import emit, progress_bar, stderr, stdout
from grounding.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class EvalMMHalCommand(GenerationOptions, MMHalTaskOptions):
    """Rate answers from 0 to 6 by a judge, a program given with --judge.

    With --responses a file is rated, without a model. With --model the model answers the questions of --data first; the
    run goes to the folder --out. Replies are stored one by one, so the same command resumes where a judge failed.
    Scores of different judges, or of different prompts, are not comparable.

    Attributes:
        responses: MMHal-Bench's response_template.json with `model_answer` filled in.
        out: with --responses, the file of replies, JSON lines; with --model, the folder of the run.
    """

    responses: Path | None = None
    out: Path | None = None

    def run(self) -> int:
        """Ask the judge, score, and print a table or one JSON object."""
        from evals.judge import ask_all
        from evals.mmhal import prompt, read_items, read_template
        from evals.tasks.mmhal import score_replies

        if self.generates(self.responses, "--responses"):
            return self.put(self.as_task(MMHalTask))
        assert self.responses is not None
        if self.out is None:
            raise UsageError("--out is missing: a judge's replies are kept in a file")
        judge = self.asked()
        items, template = read_items(self.responses), read_template(self.template)
        prompts = [prompt(item, template) for item in items]
        with progress_bar(stderr()) as progress:
            task = progress.add_task("eval mmhal", total=len(prompts))
            replies = ask_all(prompts, judge, self.out, lambda: progress.advance(task))
        found = score_replies(items, [reply.text for reply in replies], self.judge, template, self.seed)
        if self.json:
            emit(found.data)
        else:
            stdout().print(found.text)
        return 0
