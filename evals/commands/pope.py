"""`grounding eval pope`: answers to POPE's questions that exist already, or a model's own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from evals.commands.checks import check_seed
from evals.commands.generation import GenerationOptions
from evals.tasks.base import Scored
from evals.tasks.pope import PopeAsking, PopeTask
from grounding.console import emit, stderr, stdout
from grounding.errors import EvalDataError


@dataclass(frozen=True, kw_only=True)
class EvalPopeCommand(GenerationOptions, PopeAsking):
    """Score yes-no answers split by split: accuracy, precision, recall, F1 and yes-ratio, yes being positive.

    With --answers files are scored, and no model is needed. With --model the questions are asked first, into the folder
    --out. Percent as papers print them; intervals are 95 % percentile bootstraps over images. The parser changes the
    figures, so it belongs beside them. With several splits, the mean of their F1 is what LLaVA calls POPE.

    Attributes:
        answers: as many files of JSON lines with `question_id` and `answer` as there are question files, in the same
            order.
    """

    answers: tuple[Path, ...] = ()

    def run(self) -> int:
        """Score, and print a table or one JSON object."""
        check_seed(self.seed)
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
            raise EvalDataError(
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
