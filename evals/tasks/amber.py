"""AMBER as a task: describe its images and answer its yes-no questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import tyro

from evals.amber.annotations import read_annotations
from evals.amber.scoring import AmberCounts, AmberOptions, compare_counts, count, score_counts
from evals.data import picture_in
from evals.inputs import field, listed, read_rows, refuse_doubles, whole_number
from evals.task import Answer, Sample, Scored
from evals.tasks.protocols import SuffixProtocols
from grounding.errors import EvalDataError, UsageError

if TYPE_CHECKING:
    from evals.amber.discriminative import Verdict
    from evals.amber.generative import DescriptionCounts
    from grounding.models.own_words import OwnWords

LIMIT = 512  # our choice; the authors' script scores responses and generates none
QUERIES = ("query/query_all.json", "query_all.json")
PROTOCOLS: Mapping[str, str] = {
    "official": "",
    "vlmevalkit": "\nPlease answer yes or no.",
}


@dataclass(frozen=True, kw_only=True)
class AmberTaskOptions(AmberOptions):
    """Options of `AmberTask`; the command that scores existing responses shares them.

    Attributes:
        images: with a model, the folder of AMBER's images.
        part: which queries to ask.
        protocol: suffix of a yes-no question: `official` none, `vlmevalkit` "Please answer yes or no.".
        words: another suffix of a yes-no question; left out, the model's own if it declares one, otherwise the
            protocol's.
        describe: another request for a description than the queries' own; left out, the model's own if it declares
            one.
    """

    images: str = ""
    part: Literal["all", "generative", "discriminative"] = "all"
    protocol: Literal["official", "vlmevalkit"] = "official"
    words: Annotated[str | None, tyro.conf.arg(name="prompt")] = None
    describe: str | None = None


@dataclass(frozen=True, kw_only=True)
class AmberTask(AmberTaskOptions, SuffixProtocols):
    """Describe AMBER's images and answer its questions."""

    name: ClassVar[str] = "amber"
    version: ClassVar[int] = 2
    max_new_tokens: ClassVar[int] = LIMIT
    suffixes: ClassVar[Mapping[str, str]] = PROTOCOLS

    def __post_init__(self) -> None:
        """Settle `auto`, so that the run's manifest names the pipeline."""
        object.__setattr__(self, "pipeline", self.settled)

    def in_words_of(self, own: OwnWords) -> AmberTask:
        """Ask for descriptions and short answers as the model declares; see `evals.tasks.protocols.Rewordable`."""
        return replace(super().in_words_of(own), describe=own.describe if self.describe is None else self.describe)

    def samples(self) -> Sequence[Sample]:
        """Return one sample per query; see `Task.samples`."""
        if not self.images:
            raise UsageError("--images is missing: a model needs the folder of AMBER's pictures")
        annotations = read_annotations(self.data / "annotations.json")
        file = next((self.data / name for name in QUERIES if (self.data / name).is_file()), self.data / QUERIES[0])
        samples, unknown = [], []
        for number, row in enumerate(read_rows(file, "AMBER's queries"), 1):
            where = f"row {number} of {file}"
            one = whole_number(row, ("id",), where)
            image, query = (str(field(row, (name,), str, where)) for name in ("image", "query"))
            described = one in annotations.scenes
            if not described and one not in annotations.statements:
                unknown.append(one)
            kind = "generative" if described else "discriminative"
            if self.part in ("all", kind):
                question = (self.describe or query) if described else query + self.prompt
                samples.append(Sample(str(one), image, picture_in(self.images, image), question, {"part": kind}))
        if unknown:
            raise EvalDataError(
                f"{file}: {len(unknown)} ids are not in AMBER's annotations ({listed(unknown)}): give queries and "
                "annotations of one release"
            )
        refuse_doubles((one.id for one in samples), file, "ids")
        return samples

    def score(self, answers: Sequence[Answer], folder: Path, seed: int) -> Scored:
        """Score by the authors' rules."""
        counts = self._count(answers)
        scored = score_counts(counts, self, seed)
        details = [
            {"id": one.id, **_describe(counts.descriptions.get(int(one.id)), counts.verdicts.get(int(one.id)))}
            for one in answers
        ]
        return Scored(scored.data, scored.text, details)

    def compare(self, a: Sequence[Answer], b: Sequence[Answer], seed: int) -> Scored:
        """Score the differences b - a of descriptions and of yes-no answers."""
        return compare_counts(self._count(a), self._count(b), seed)

    def _count(self, answers: Sequence[Answer]) -> AmberCounts:
        annotations = read_annotations(self.data / "annotations.json")
        return count({int(one.id): one.text for one in answers}, annotations, self)


def _describe(description: DescriptionCounts | None, verdict: Verdict | None) -> dict[str, Any]:
    if description is not None:
        return {
            "hallucinated": list(description.flagged),
            "nouns": description.nouns,
            "covered": description.covered,
            "shown": description.shown,
        }
    assert verdict is not None
    return {
        "dimension": verdict.statement.dimension,
        "truth": verdict.statement.truth,
        "says": verdict.says,
        "right": verdict.says is verdict.statement.truth,
    }
