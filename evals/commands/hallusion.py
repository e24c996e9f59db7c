"""`grounding eval hallusion`: score existing answers to HallusionBench, or those of a model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from evals.commands.generation import GenerationOptions
from evals.tasks.hallusion import HallusionTask, HallusionTaskOptions
from grounding.console import emit, stdout
from grounding.errors import EvalDataError


@dataclass(frozen=True, kw_only=True)
class EvalHallusionCommand(GenerationOptions, HallusionTaskOptions):
    """Score answers per row (aAcc), per question over its variants (qAcc) and per figure (fAcc).

    With --responses a file is scored, without a model. With --model the model answers the questions of --data that have
    an image first; the run goes to the folder --out.

    Attributes:
        responses: HallusionBench.json with one more field, the answer.
        answer_field: the field that holds the answer.
        verdict_field: the field that holds a judge's verdict (0 incorrect, 1 correct, 2 unclear), taken instead of
            reading the answer; empty for none.
        images_only: leave out the rows without an image, as VLMEvalKit does (951 of 1,129 are left).
    """

    responses: Path | None = None
    answer_field: str = "model_prediction"
    verdict_field: str = ""
    images_only: bool = False

    def run(self) -> int:
        """Score, and print a table or one JSON object."""
        from evals.yesno.hallusion import read_results
        from evals.yesno.hallusion_scoring import score_all
        from evals.yesno.parsers import PARSERS

        if self.generates(self.responses, "--responses"):
            return self.put(self.as_task(HallusionTask))
        assert self.responses is not None
        rows = read_results(
            self.responses, PARSERS[self.parser], answer=self.answer_field, verdict=self.verdict_field or None
        )
        if self.images_only:
            rows = tuple(row for row in rows if row.has_image)
            if not rows:
                raise EvalDataError(f"no row of {self.responses} shows an image: leave --images-only out")
        read = (
            f"verdicts in {self.verdict_field!r}" if self.verdict_field else f"answers read by the rule {self.parser!r}"
        )
        variant = {"parser": None if self.verdict_field else self.parser, "images_only": self.images_only}
        found = score_all(rows, read, variant, self.seed)
        if self.json:
            emit(found.data)
        else:
            stdout().print(found.text)
        return 0
