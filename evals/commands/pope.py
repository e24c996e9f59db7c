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
        answers: one file per question file, in the same order, or one file for all: rows with `question_id` and
            `answer`; without ids, `question` and `answer` in the order of the questions, as POPE's authors write them;
            or LLaVA's single file, with `prompt` and `text`, whose splits follow one another.
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
        from evals.yesno.pope import join, read_questions
        from evals.yesno.pope_answers import answers_by_file, read_answers, texts_of
        from evals.yesno.scoring import score_splits

        if len(self.answers) not in (1, len(self.questions)):
            raise UsageError(
                f"{len(self.questions)} question files and {len(self.answers)} answer files were given, expected as "
                "many of the one as of the other, in the same order, or one file of answers to all"
            )
        parser = PARSERS[self.parser]
        files = [read_questions(asked) for asked in self.questions]
        whole = [read_answers(path) for path in self.answers]
        parts = whole if len(whole) > 1 else answers_by_file(files, whole[0], self.answers[0])
        paths = self.answers if len(whole) > 1 else self.answers * len(files)
        splits, notes = {}, {}
        for asked, file, answers, path in zip(self.questions, files, parts, paths, strict=True):
            if file.copy in splits:
                raise EvalDataError(f"{asked} is the split {file.copy!r} for the second time: give each split once")
            splits[file.copy] = join(file.questions, texts_of(file.questions, answers, path), parser)
            notes[file.copy] = {"known_copy": file.known, "note": file.note}
        return score_splits(splits, parser, self.seed, extra=notes)
