"""`grounding eval pope`: answers to POPE's questions that exist already, scored without any model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from evals.commands.checks import check_seed
from grounding.console import emit, results, talk
from grounding.errors import EvalDataError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from evals.yesno.confusion import YesNoScore
    from evals.yesno.pope import QuestionFile

TASK_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class EvalPopeCommand:
    """Score yes-no answers split by split: accuracy, precision, recall, F1 and yes-ratio, yes being positive.

    Percent as papers print them; intervals are 95 % percentile bootstraps over images. The parser changes the figures,
    so it belongs beside them. With several splits, the mean of their F1 is what LLaVA calls POPE.

    Attributes:
        questions: POPE's question files, one a split.
        answers: as many files of JSON lines with `question_id` and `answer`, in the same order.
        parser: how an answer is read: `official`, `pai`, `lmms-eval` or `vlmevalkit`.
        seed: of the bootstrap.
        json: print one JSON object on stdout instead of the table.
    """

    questions: tuple[Path, ...]
    answers: tuple[Path, ...]
    parser: Literal["official", "pai", "lmms-eval", "vlmevalkit"] = "official"
    seed: int = 0
    json: bool = False

    def run(self) -> int:
        """Score, and print a table or one JSON object."""
        from evals.yesno.confusion import score_answers
        from evals.yesno.parsers import PARSERS
        from evals.yesno.pope import join, read_answers, read_questions

        check_seed(self.seed)
        if not self.questions or len(self.questions) != len(self.answers):
            raise EvalDataError(
                f"{len(self.questions)} question files and {len(self.answers)} answer files were given, expected as "
                "many of the one as of the other, in the same order"
            )
        parser = PARSERS[self.parser]
        files: dict[str, QuestionFile] = {}
        found: dict[str, YesNoScore] = {}
        for asked, answers in zip(self.questions, self.answers, strict=True):
            file = read_questions(asked)
            if file.copy in files:
                raise EvalDataError(f"{asked} is the split {file.copy!r} for the second time: give each split once")
            joined = join(file.questions, read_answers(answers), parser, answers)
            files[file.copy] = file
            found[file.copy] = score_answers(joined, unread_is_no=parser.unread_is_no, seed=self.seed)
        for name, file in files.items():
            if file.note:
                talk().print(f"{name}: {file.note}")
        if self.json:
            emit(self._object(files, found))
        else:
            self._print(found)
        return 0

    def _object(self, files: Mapping[str, QuestionFile], found: Mapping[str, YesNoScore]) -> dict[str, Any]:
        from evals.yesno.confusion import HIGHER_IS_BETTER, yes_no_json
        from pipelines.provenance import versions

        return {
            "task": "pope",
            "version": TASK_VERSION,
            "n": sum(one.n for one in found.values()),
            "mean": means(found),
            "splits": {
                name: {**yes_no_json(one), "known_copy": files[name].known, "note": files[name].note}
                for name, one in found.items()
            },
            "parser": self.parser,
            "higher_is_better": HIGHER_IS_BETTER,
            "seed": self.seed,
            "versions": versions(),
        }

    def _print(self, found: Mapping[str, YesNoScore]) -> None:
        from evals.report import aligned

        names = ("accuracy", "precision", "recall", "f1", "yes_ratio")
        lines = [["split", "n", "accuracy", "precision", "recall", "F1", "yes-ratio", "unparsable"]]
        for split, one in found.items():
            cells = [_cell(getattr(one, name)) for name in names]
            lines.append([split, str(one.n), *cells, str(one.unparsable)])
        if len(found) > 1:
            mean = means(found)
            lines.append(["mean of splits", "", *(f"{mean[name]:.1f}" for name in names), ""])
        results().print(f"POPE, answers read by the rule {self.parser!r}\n")
        results().print(aligned(lines))


def means(found: Mapping[str, YesNoScore]) -> dict[str, float]:
    """The mean over splits of each figure, in percent."""
    from evals.report import percent
    from evals.yesno.confusion import HIGHER_IS_BETTER

    return {
        name: percent(sum(getattr(one, name).value for one in found.values()) / len(found)) for name in HIGHER_IS_BETTER
    }


def _cell(interval: Any) -> str:
    return f"{100 * interval.value:.1f} [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"
