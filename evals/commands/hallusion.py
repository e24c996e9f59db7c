"""`grounding eval hallusion`: answers to HallusionBench that exist already, scored without any model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from evals.commands.checks import check_seed
from grounding.console import emit, results
from grounding.errors import EvalDataError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from evals.statistics import Interval
    from evals.yesno.hallusion import HallusionScore

TASK_VERSION = 1
_NAMES = ("a_acc", "q_acc", "f_acc", "easy_q_acc", "hard_q_acc")


@dataclass(frozen=True, kw_only=True)
class EvalHallusionCommand:
    """Score answers per row (aAcc), per question over its variants (qAcc) and per figure (fAcc).

    Attributes:
        responses: HallusionBench.json with one more field, the answer.
        answer_field: the field that holds the answer.
        verdict_field: the field that holds a judge's verdict (0 incorrect, 1 correct, 2 unclear), taken instead of
            reading the answer; empty for none.
        parser: how an answer's yes or no is read.
        images_only: leave out the rows that show no image, as VLMEvalKit does (951 of 1,129).
        seed: of the bootstrap.
        json: print one JSON object on stdout instead of the table.
    """

    responses: Path
    answer_field: str = "model_prediction"
    verdict_field: str = ""
    parser: Literal["official", "pai", "lmms-eval", "vlmevalkit"] = "vlmevalkit"
    images_only: bool = False
    seed: int = 0
    json: bool = False

    def run(self) -> int:
        """Score, and print a table or one JSON object."""
        from evals.yesno.hallusion import read_results, score_rows
        from evals.yesno.parsers import PARSERS

        check_seed(self.seed)
        rows = read_results(
            self.responses, PARSERS[self.parser], answer=self.answer_field, verdict=self.verdict_field or None
        )
        if self.images_only:
            rows = tuple(row for row in rows if row.has_image)
            if not rows:
                raise EvalDataError(f"no row of {self.responses} shows an image: leave --images-only out")
        found = {"all": score_rows(rows, seed=self.seed)}
        for category in sorted({row.category for row in rows}):
            found[category] = score_rows([row for row in rows if row.category == category], seed=self.seed)
        if self.json:
            emit(self._object(found))
        else:
            self._print(found)
        return 0

    def _object(self, found: Mapping[str, HallusionScore]) -> dict[str, Any]:
        from pipelines.provenance import versions

        return {
            "task": "hallusion",
            "version": TASK_VERSION,
            **score_json(found["all"]),
            "categories": {name: score_json(one) for name, one in found.items() if name != "all"},
            "higher_is_better": dict.fromkeys(_NAMES, True),
            "variant": {"parser": None if self.verdict_field else self.parser, "images_only": self.images_only},
            "seed": self.seed,
            "versions": versions(),
        }

    def _print(self, found: Mapping[str, HallusionScore]) -> None:
        from evals.report import aligned

        lines = [["", "n", "aAcc", "qAcc", "fAcc", "easy qAcc", "hard qAcc", "unclear"]]
        for name, one in found.items():
            lines.append([name, str(one.n), *(_cell(getattr(one, part)) for part in _NAMES), str(one.unclear)])
        how = (
            f"verdicts in {self.verdict_field!r}" if self.verdict_field else f"answers read by the rule {self.parser!r}"
        )
        results().print(f"HallusionBench, {how}\n")
        results().print(aligned(lines))


def score_json(found: HallusionScore) -> dict[str, Any]:
    """The figures in percent by name, with intervals; null where there was nothing to count."""
    from evals.report import percent

    figures: dict[str, Interval | None] = {name: getattr(found, name) for name in _NAMES}
    return {
        "n": found.n,
        "unclear": found.unclear,
        **{name: percent(one.value) if one else None for name, one in figures.items()},
        "intervals": {name: [percent(one.low), percent(one.high)] if one else None for name, one in figures.items()},
    }


def _cell(interval: Interval | None) -> str:
    if interval is None:
        return "-"
    return f"{100 * interval.value:.1f} [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"
