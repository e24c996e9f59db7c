"""CHAIR as a task: describe images of COCO, or of any set whose ground truth names COCO's classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import tyro

from evals.chair.curve import LENGTHS
from evals.chair.options import ChairOptions
from evals.chair.score import ImageCaption
from evals.data import DataRow, read_data
from evals.inputs import image_number, image_number_of
from evals.task import Answer, Sample, Scored
from grounding.errors import EvalDataError

if TYPE_CHECKING:
    from grounding.models.own_words import OwnWords

PROTOCOLS: Mapping[str, tuple[str, int]] = {
    # Prompt and token limit in the released code of each. Scores at different limits are not comparable: the same
    # captions have a CHAIR_S of 27 if cut at 64 words and of 47 if not.
    "opera": ("Please describe this image in detail.", 512),
    "pai": ("Please help me describe the image in detail.", 512),
    "halc": ("Please describe this image in detail.", 64),
    "lmms-eval": ("Please describe this image in detail.", 2048),
}
ID_NAMES = ("image_id", "imageId", "cocoid", "id")


@dataclass(frozen=True, kw_only=True)
class ChairTaskOptions(ChairOptions):
    """Options of `ChairTask`; the command that scores existing captions shares them.

    Attributes:
        data: the images to describe: a folder, JSON, parquet or hub id. Ids are the rows' `image_id` or `id`, else
            the digits at the end of the file names (COCO_val2014_000000000139.jpg).
        split: of a hub data set; `test` if left out.
        protocol: whose prompt and token limit to use: OPERA's (also AD-HH's and less-is-more's prompt) or PAI's with
            512 new tokens, HALC's with 64, lmms-eval's with 2,048.
        words: another prompt; left out, the model's own request for a description if it declares one, otherwise the
            protocol's.
        lengths: cuts of the truncation curve, in words and punctuation marks.
    """

    data: str = ""
    split: str = ""
    protocol: Literal["opera", "pai", "halc", "lmms-eval"] = "opera"
    words: Annotated[str | None, tyro.conf.arg(name="prompt")] = None
    lengths: tuple[int, ...] = LENGTHS


@dataclass(frozen=True, kw_only=True)
class ChairTask(ChairTaskOptions):
    """Describe images; the captions are scored by CHAIR."""

    name: ClassVar[str] = "chair"
    version: ClassVar[int] = 2

    def __post_init__(self) -> None:
        """Settle `auto`, so that the run's manifest names the pipeline."""
        object.__setattr__(self, "pipeline", self.settled)

    @property
    def prompt(self) -> str:
        """The instruction."""
        return PROTOCOLS[self.protocol][0] if self.words is None else self.words

    @property
    def max_new_tokens(self) -> int:
        """The protocol's limit."""
        return PROTOCOLS[self.protocol][1]

    def in_words_of(self, own: OwnWords) -> ChairTask:
        """Ask for descriptions as the model declares; see `evals.tasks.protocols.Rewordable`."""
        if self.words is not None or own.describe is None or own.describe == self.prompt:
            return self
        return replace(self, words=own.describe)

    def samples(self) -> Sequence[Sample]:
        """Return one sample per image; see `Task.samples`."""
        from evals.chair.scoring import check_lengths
        from evals.chair.truth import refuse_unknown

        check_lengths(self.lengths)
        rows = read_data(self.data, self.split, "the pictures")
        ids = [_image_id(row, f"row {number} of {self.data}") for number, row in enumerate(rows, 1)]
        refuse_unknown(ids, self.resources().truth, self.data)
        return [Sample(str(one), row.name, row.picture, self.prompt) for one, row in zip(ids, rows, strict=True)]

    def score(self, answers: Sequence[Answer], folder: Path, seed: int) -> Scored:
        """Score by CHAIR, with the truncation curve."""
        from evals.chair.scoring import score_captions

        resources = self.resources()
        scores = resources.score(captions_of(answers), folder)
        found = score_captions(
            scores, resources.lexicon, folder.name, self.lengths, self.variant, resources.hashes, seed
        )
        details = [{"id": answer.id, **one} for answer, one in zip(answers, found.details, strict=True)]
        return Scored(found.data, found.text, details)

    def compare(self, a: Sequence[Answer], b: Sequence[Answer], seed: int) -> Scored:
        """Score the differences b - a, also at equal recall and at equal length."""
        from evals.chair.scoring import compare_captions

        resources = self.resources()
        one, other = (resources.score(captions_of(run), "the run") for run in (a, b))
        return compare_captions(one, other, resources.lexicon, ("A", "B"), self.variant, resources.hashes, seed)


def captions_of(answers: Sequence[Answer]) -> list[ImageCaption]:
    """Convert answers to captions."""
    return [ImageCaption(int(one.id), one.text) for one in answers]


def _image_id(row: DataRow, where: str) -> int:
    if any(name in row.fields for name in ID_NAMES):
        return image_number(row.fields, ID_NAMES, where)
    found = image_number_of(row.name)
    if found is None:
        raise EvalDataError(
            f"{where} has no image id and its picture's name {row.name!r} does not end in one: give the pictures "
            "COCO's names, or a metadata.jsonl with file_name and image_id"
        )
    return found
