"""POPE as a task: "Is there a dog in the image?", split by split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import tyro

from evals.data import picture_in, read_data
from evals.inputs import field, whole_number
from evals.task import Answer, Sample, Scored
from evals.tasks.protocols import SuffixProtocols
from evals.yesno.confusion import Answered, answered
from evals.yesno.parsers import PARSERS
from evals.yesno.pope import read_questions
from grounding.errors import EvalDataError

PROTOCOLS: Mapping[str, str] = {
    # Suffix of the question in the released code of each.
    "official": "",
    "llava": "\nAnswer the question using a single word or phrase.",
    "vcd": " Please answer this question with one word.",
    "vaf": " Please just answer yes or no.",
}
LIMIT = 64  # our choice: every parser but PAI's decides by the first sentence or word


@dataclass(frozen=True, kw_only=True)
class PopeTaskOptions:
    """Options of `PopeTask`; the command that scores existing answers shares them.

    Attributes:
        questions: POPE's question files, one per split.
        data: folder of the images; or, without question files, parquet or a hub id whose rows hold question, answer
            and image, with the split in `category`.
        split: of a hub data set; `test` if left out.
        protocol: suffix of a question: `official` (also OPERA's and PAI's) none; `llava` (also lmms-eval's), `vcd` and
            `vaf` a sentence that asks for a short answer.
        words: another suffix of a question; left out, the model's own if it declares one, otherwise the protocol's.
        parser: rule that reads an answer: `official`, `pai`, `lmms-eval` or `vlmevalkit`.
    """

    questions: tuple[Path, ...] = ()
    data: str = ""
    split: str = ""
    protocol: Literal["official", "llava", "vcd", "vaf"] = "official"
    words: Annotated[str | None, tyro.conf.arg(name="prompt")] = None
    parser: Literal["official", "pai", "lmms-eval", "vlmevalkit"] = "official"


@dataclass(frozen=True, kw_only=True)
class PopeTask(PopeTaskOptions, SuffixProtocols):
    """Answer POPE's questions."""

    name: ClassVar[str] = "pope"
    version: ClassVar[int] = 1
    max_new_tokens: ClassVar[int] = LIMIT
    suffixes: ClassVar[Mapping[str, str]] = PROTOCOLS

    def samples(self) -> Sequence[Sample]:
        """Return one sample per question; see `Task.samples`."""
        return self._from_files() if self.questions else self._from_rows()

    def score(self, answers: Sequence[Answer], folder: Path, seed: int) -> Scored:
        """Score each split."""
        from evals.yesno.scoring import answer_json, score_splits

        read = self._read(answers)
        notes = {str(one.fields["split"]): {"note": one.fields["note"]} for one in answers}
        scored = score_splits(self._by_split(answers, read), PARSERS[self.parser], seed, extra=notes)
        details = [{"id": one.id, **answer_json(found)} for one, found in zip(answers, read, strict=True)]
        return Scored(scored.data, scored.text, details)

    def compare(self, a: Sequence[Answer], b: Sequence[Answer], seed: int) -> Scored:
        """Score the differences b - a of each split."""
        from evals.yesno.scoring import compare_splits

        one, other = (self._by_split(run, self._read(run)) for run in (a, b))
        return compare_splits(one, other, PARSERS[self.parser], seed)

    def _from_files(self) -> list[Sample]:
        samples: list[Sample] = []
        seen: set[str] = set()
        for path in self.questions:
            file = read_questions(path)
            if file.copy in seen:
                raise EvalDataError(f"{path} is the split {file.copy!r} for the second time: give each split once")
            seen.add(file.copy)
            for one in file.questions:
                fields = {"truth": one.truth, "split": file.copy, "note": file.note}
                samples.append(
                    Sample(
                        f"{file.copy}/{one.question_id}",
                        one.image,
                        picture_in(self.data, one.image),
                        one.text + self.prompt,
                        fields,
                    )
                )
        return samples

    def _from_rows(self) -> list[Sample]:
        samples = []
        for number, row in enumerate(read_data(self.data, self.split, "the questions"), 1):
            where = f"row {number} of {self.data}"
            label = str(field(row.fields, ("answer", "label"), str, where)).strip().lower()
            if label not in ("yes", "no"):
                raise EvalDataError(f"{where} has the label {label!r}, expected 'yes' or 'no': give POPE's questions")
            split = str(row.fields.get("category") or "all")
            fields = {"truth": label == "yes", "split": split, "note": None}
            one = whole_number(row.fields, ("question_id", "id"), where)
            text = field(row.fields, ("question", "text"), str, where)
            samples.append(Sample(f"{split}/{one}", row.name, row.picture, text + self.prompt, fields))
        return samples

    def _read(self, answers: Sequence[Answer]) -> list[Answered]:
        images = {name: number for number, name in enumerate(dict.fromkeys(one.image for one in answers))}
        parser = PARSERS[self.parser]
        return [answered(images[one.image], bool(one.fields["truth"]), one.text, parser) for one in answers]

    @staticmethod
    def _by_split(answers: Sequence[Answer], read: Sequence[Answered]) -> dict[str, list[Answered]]:
        splits: dict[str, list[Answered]] = {}
        for one, found in zip(answers, read, strict=True):
            splits.setdefault(str(one.fields["split"]), []).append(found)
        return splits
