"""`grounding eval pope`: score existing answers to POPE's questions, or those of a model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from evals.commands.generation import GenerationOptions
from evals.task import Scored
from evals.tasks.pope import PopeTask, PopeTaskOptions
from grounding.console import emit, stderr, stdout
from grounding.errors import EvalDataError, UsageError


@dataclass(frozen=True, kw_only=True)
class EvalPopeCommand(GenerationOptions, PopeTaskOptions):
    """Score yes-no answers split by split: accuracy, precision, recall, F1 and yes-ratio; yes is the positive class.

    With --answers files are scored, without a model. With --model the model answers the questions first; the run goes
    to the folder --out. Metrics are in percent, with 95 % percentile bootstrap intervals over images. They depend on
    the parser, so report it with them. With several splits, the mean of their F1 is what LLaVA calls POPE.

    Attributes:
        answers: one file of JSON lines with `question_id` and `answer` per question file, in the same order.
    """

    answers: tuple[Path, ...] = ()

    def run(self) -> int:
        """Score, and print a table or one JSON object."""
        if self.generates(self.answers, "--answers"):
            return self.put(self.as_task(PopeTask))
        found = self._score()
        for name, split in found.data["splits"].items():
            if split["note"]:
                stderr().print(f"{name}: {split['note']}")
        if self.json:
            emit(found.data)
        else:
            stdout().print(found.text)
        return 0

    def _score(self) -> Scored:
        from evals.yesno.parsers import PARSERS
        from evals.yesno.pope import join, read_answers, read_questions
        from evals.yesno.scoring import score_splits

        if len(self.questions) != len(self.answers):
            raise UsageError(
                f"{len(self.questions)} question files and {len(self.answers)} answer files were given, expected as "
                "many of the one as of the other, in the same order"
            )
        parser = PARSERS[self.parser]
        splits, notes = {}, {}
        for asked, answers in zip(self.questions, self.answers, strict=True):
            file = read_questions(asked)
            if file.copy in splits:
                raise EvalDataError(f"{asked} is the split {file.copy!r} for the second time: give each split once")
            splits[file.copy] = join(file.questions, read_answers(answers), parser, answers)
            notes[file.copy] = {"known_copy": file.known, "note": file.note}
        return score_splits(splits, parser, self.seed, extra=notes)
