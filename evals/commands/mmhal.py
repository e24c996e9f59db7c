"""`grounding eval mmhal`: answers to MMHal-Bench that exist already, rated by a judge that the user brings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evals.commands.checks import check_seed
from grounding.console import emit, progress_bar, results, talk
from grounding.errors import JudgeError

if TYPE_CHECKING:
    from evals.mmhal import MMHalScore

TASK_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class EvalMMHalCommand:
    """Rate answers from 0 to 6 by a judge; nobody is asked unless one is given.

    Replies are kept as they come, so the same command goes on where a judge failed. Figures of different judges, or of
    different prompts, do not compare.

    Attributes:
        responses: MMHal-Bench's response_template.json with `model_answer` filled in.
        out: JSON lines where replies are kept.
        judge: a program, with its arguments, that reads a prompt on standard input and writes a reply that ends with
            "Rating: N"; empty to score replies that are kept already.
        template: the prompt, a text with {contents}, {question}, {reference} and {answer}; the project's own if left
            out, which is not the authors'.
        timeout: seconds that the judge may take for one answer.
        seed: of the bootstrap.
        json: print one JSON object on stdout instead of the table.
    """

    responses: Path
    out: Path
    judge: str = ""
    template: Path | None = None
    timeout: float = 120.0
    seed: int = 0
    json: bool = False

    def run(self) -> int:
        """Ask, score, and print a table or one JSON object."""
        from evals.judge import CommandJudge, ask_all
        from evals.mmhal import prompt, read_items, read_template, score_items

        check_seed(self.seed)
        if self.timeout <= 0:
            raise JudgeError(f"--timeout {self.timeout:g} was given, expected seconds above 0")
        items, template = read_items(self.responses), read_template(self.template)
        prompts = [prompt(item, template) for item in items]
        judge = CommandJudge(self.judge, self.timeout) if self.judge else None
        with progress_bar(talk()) as progress:
            task = progress.add_task("eval mmhal", total=len(prompts))
            replies = ask_all(prompts, judge, self.out, lambda: progress.advance(task))
        found = score_items(items, [reply.text for reply in replies], seed=self.seed)
        if self.json:
            emit(self._object(found, template))
        else:
            self._print(found)
        return 0

    def _object(self, found: MMHalScore, template: str) -> dict[str, Any]:
        from evals.report import DIGITS, percent
        from pipelines.provenance import short_hash, versions

        rate = found.hallucination_rate
        return {
            "task": "mmhal",
            "version": TASK_VERSION,
            "n": found.n,
            "unrated": found.unrated,
            "score": round(found.score.value, DIGITS),
            "hallucination_rate": percent(rate.value),
            "intervals": {
                "score": [round(found.score.low, DIGITS), round(found.score.high, DIGITS)],
                "hallucination_rate": [percent(rate.low), percent(rate.high)],
            },
            "types": {kind: round(value, DIGITS) for kind, value in found.by_type.items()},
            "higher_is_better": {"score": True, "hallucination_rate": False},
            "judge": self.judge or None,
            "template_hash": short_hash(template, 12),
            "seed": self.seed,
            "versions": versions(),
        }

    def _print(self, found: MMHalScore) -> None:
        from evals.report import aligned

        score, rate = found.score, found.hallucination_rate
        lines = [
            ["answers", str(found.n)],
            ["without one rating", str(found.unrated)],
            ["mean rating, 0 to 6", f"{score.value:.2f} [{score.low:.2f}, {score.high:.2f}]"],
            ["rated below 3, %", f"{100 * rate.value:.1f} [{100 * rate.low:.1f}, {100 * rate.high:.1f}]"],
            *([kind, f"{value:.2f}"] for kind, value in found.by_type.items()),
        ]
        results().print(aligned(lines))
