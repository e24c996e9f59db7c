"""`grounding eval mmhal`: answers to MMHal-Bench, rated by a judge that the user brings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from evals.commands.checks import check_seed
from evals.commands.generation import GenerationOptions
from evals.tasks.mmhal import MMHalAsking, MMHalTask
from grounding.console import emit, progress_bar, stderr, stdout
from grounding.errors import EvalDataError


@dataclass(frozen=True, kw_only=True)
class EvalMMHalCommand(GenerationOptions, MMHalAsking):
    """Rate answers from 0 to 6 by a judge; nobody is asked unless one is given.

    With --responses a file is rated, and no model is needed. With --model the questions of --data are asked first, into
    the folder --out. Replies are kept as they come, so the same command goes on where a judge failed. Figures of
    different judges, or of different prompts, do not compare.

    Attributes:
        responses: MMHal-Bench's response_template.json with `model_answer` filled in.
        out: with --responses, JSON lines where replies are kept; with --model, the folder of the run.
    """

    responses: Path | None = None
    out: Path | None = None

    def run(self) -> int:
        """Ask, score, and print a table or one JSON object."""
        from evals.judge import ask_all
        from evals.mmhal import prompt, read_items, read_template
        from evals.tasks.mmhal import score_replies

        check_seed(self.seed)
        if self.generates(self.responses, "--responses"):
            return self.put(self.as_task(MMHalTask))
        assert self.responses is not None
        if self.out is None:
            raise EvalDataError("--out is missing: a judge's replies are kept in a file")
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
