"""What a task of the suite is: samples to ask a model about, and a score of what it answered.

A task is a frozen dataclass. Its fields are its options: the command line shows them (`grounding eval run TASK`), the
run folder's manifest keeps them, and `rebuild` makes the same task of them again, so they are plain values: text,
numbers, paths, tuples of these. On the command line no option may be called like one of
`evals.commands.generation.GenerationOptions` (`tyro.conf.arg(name=...)` gives it another name). Adding a task is one
class, and one line in `evals.tasks.registry`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

if TYPE_CHECKING:
    from PIL import Image

Picture = Path | Callable[[], "Image.Image"]
"""A picture's file, or a function that makes the picture when its turn comes (drawn, or held by a data set)."""


@dataclass(frozen=True)
class Sample:
    """One question about one picture.

    Attributes:
        id: unique in the task.
        image: what the picture is called; samples of one picture share it. For a file the runner writes its path.
        picture: the picture. One that cannot be opened (`ImageError`) is written down as failed, and the rest goes on.
        question: what the model is asked, word for word.
        fields: what scoring and readers need beside the answer, as plain JSON values: truth, split, kind.
        group: samples of one group are taken or left together where `--limit` draws some; the id if empty.
    """

    id: str
    image: str
    picture: Picture = field(repr=False)
    question: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    group: str = ""


@dataclass(frozen=True)
class Answer:
    """One line of a run's `samples.jsonl`.

    Attributes:
        id: the sample's.
        image: the picture's path, relative to the manifest's `image_root`.
        question: what was asked.
        text: what the model answered; empty where it failed.
        tokens: how many tokens were generated, the end token included.
        finished: whether the text ended by itself before the limit.
        error: why there is no answer, one sentence; None where there is one.
        fields: the sample's.
    """

    id: str
    image: str
    question: str
    text: str
    tokens: int
    finished: bool
    error: str | None
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Scored:
    """What a task made of answers.

    Attributes:
        data: the figures as plain JSON, as the task's command prints them with `--json`: in percent where papers
            print percent, with `intervals` (name to [low, high]) and `higher_is_better` (name to true, false, or null).
        text: the same as tables for people.
        details: per answer, in order, what was counted; each has the sample's `id`.
    """

    data: Mapping[str, Any]
    text: str
    details: Sequence[Mapping[str, Any]] = ()


class Task(Protocol):
    """A task: a frozen dataclass with these.

    Attributes:
        name: as on the command line.
        version: raised when other figures come of the same answers, or other samples of the same data.
    """

    name: ClassVar[str]
    version: ClassVar[int]

    @property
    def prompt(self) -> str:
        """The words that the task brings itself: the instruction, or what it puts behind every question."""

    @property
    def max_new_tokens(self) -> int:
        """The longest answer in tokens, unless the user says otherwise."""

    def samples(self) -> Sequence[Sample]:
        """Every sample, in the data's order. It also looks at the truth, so that what cannot be scored is refused here.

        Raises:
            EvalDataError: the data is missing, broken or does not match the truth.
        """

    def score(self, answers: Sequence[Answer], folder: Path, seed: int) -> Scored:
        """The score of answers, none of which failed.

        Args:
            answers: at least one, in the order of the samples.
            folder: the run folder, for what scoring keeps (a judge's replies).
            seed: of the bootstrap.
        """


@runtime_checkable
class Comparable(Protocol):
    """A task that can also compare two runs."""

    def compare(self, a: Sequence[Answer], b: Sequence[Answer], seed: int) -> Scored:
        """The differences b - a of answers to the same samples, paired: the i-th of both answer one sample."""
