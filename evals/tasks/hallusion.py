"""HallusionBench as a task: its yes-no questions about an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import tyro

from evals.data import picture_in
from evals.inputs import field, read_rows
from evals.paired import compare_right
from evals.task import Answer, Sample, Scored
from evals.tasks.protocols import SuffixProtocols
from evals.yesno.hallusion import HallusionRow, read_row, refuse_double_rows
from evals.yesno.parsers import PARSERS
from grounding.errors import EvalDataError, UsageError
from grounding.files import user_path
from grounding.runs.provenance import versions

LIMIT = 64  # our choice: the yes or no comes first
PROTOCOLS: Mapping[str, str] = {"official": "", "vlmevalkit": "\nPlease answer yes or no."}
FIELDS = ("category", "subcategory", "set_id", "figure_id", "question_id", "visual_input", "gt_answer")


@dataclass(frozen=True, kw_only=True)
class HallusionTaskOptions:
    """Options of `HallusionTask`; the command that scores existing answers shares them.

    Attributes:
        data: with a model, HallusionBench.json.
        images: with a model, the folder of its `filename`s; the file's own folder if left out.
        protocol: suffix of a question: `official` none, `vlmevalkit` "Please answer yes or no.".
        words: another suffix of a question; left out, the model's own if it declares one, otherwise the protocol's.
        parser: rule that reads yes or no from an answer.
    """

    data: str = ""
    images: str = ""
    protocol: Literal["official", "vlmevalkit"] = "official"
    words: Annotated[str | None, tyro.conf.arg(name="prompt")] = None
    parser: Literal["official", "pai", "lmms-eval", "vlmevalkit"] = "vlmevalkit"


@dataclass(frozen=True, kw_only=True)
class HallusionTask(HallusionTaskOptions, SuffixProtocols):
    """Answer HallusionBench's questions; the 178 rows without a figure are left out, as VLMEvalKit does."""

    name: ClassVar[str] = "hallusion"
    version: ClassVar[int] = 2
    max_new_tokens: ClassVar[int] = LIMIT
    suffixes: ClassVar[Mapping[str, str]] = PROTOCOLS

    def samples(self) -> Sequence[Sample]:
        """Return one sample per question about an image; `--limit` draws the questions of one set together."""
        if not self.data:
            raise UsageError("--data is missing: a model needs the questions, HallusionBench.json")
        folder = self.images or str(user_path(self.data).parent)
        samples, read = [], []
        for number, row in enumerate(read_rows(self.data, "the questions"), 1):
            where = f"row {number} of {self.data}"
            one = read_row({**row, "answer": ""}, PARSERS[self.parser], where, answer="answer")
            if not one.has_image:
                continue
            read.append(one)
            image, question = (str(field(row, (name,), str, where)) for name in ("filename", "question"))
            samples.append(
                Sample(
                    "/".join((*one.group, one.figure_id, one.question_id)),
                    image,
                    picture_in(folder, image),
                    question + self.prompt,
                    {name: row[name] for name in FIELDS},
                    group="/".join(one.group),
                )
            )
        if not samples:
            raise EvalDataError(f"no row of {self.data} shows an image: give HallusionBench.json")
        refuse_double_rows(read, self.data)
        return samples

    def score(self, answers: Sequence[Answer], folder: Path, seed: int) -> Scored:
        """Score rows (aAcc), questions (qAcc) and figures (fAcc)."""
        from evals.yesno.hallusion_scoring import score_all

        rows = self._rows(answers)
        variant = {"parser": self.parser, "images_only": True}
        scored = score_all(rows, f"answers read by the rule {self.parser!r}", variant, seed)
        details = [
            {"id": one.id, "truth": str(one.fields["gt_answer"]) == "1", "verdict": row.verdict, "right": row.right}
            for one, row in zip(answers, rows, strict=True)
        ]
        return Scored(scored.data, scored.text, details)

    def compare(self, a: Sequence[Answer], b: Sequence[Answer], seed: int) -> Scored:
        """Score the difference b - a of aAcc, resampled by set of figures."""
        one, other = self._rows(a), self._rows(b)
        sets = {group: number for number, group in enumerate(dict.fromkeys(row.group for row in one))}
        groups = [sets[row.group] for row in one]
        found, table = compare_right([row.right for row in one], [row.right for row in other], groups, "a_acc", seed)
        data = {"task": "compare", "version": self.version, **found, "higher_is_better": {"a_acc": True}, "seed": seed}
        return Scored({**data, "versions": versions()}, table)

    def _rows(self, answers: Sequence[Answer]) -> list[HallusionRow]:
        parser = PARSERS[self.parser]
        return [read_row({**one.fields, "answer": one.text}, parser, one.id, answer="answer") for one in answers]
