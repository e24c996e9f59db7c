"""Protocol of an evaluation task: samples that a model answers, and a score of the answers.

A task is a frozen dataclass. Its fields are its options: the command line shows them (`grounding eval run TASK`), the
run folder's manifest stores them, and `evals.runs.rebuild_task` builds the same task from them. They must therefore be
plain values: text, numbers, paths, tuples of these. No field may share its command-line name with an option of
`evals.commands.generation.GenerationOptions`; `tyro.conf.arg(name=...)` gives it another one. To add a task, write one
class and register it in `evals.tasks.registry`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from grounding.runs.content import picture_hash

if TYPE_CHECKING:
    from PIL import Image

    from grounding.models.base import VLM
    from grounding.steering.decoding import Decoding
    from grounding.steering.method import Steering

Picture = Path | Callable[[], "Image.Image"]
"""A picture's file, or a function that returns the picture when it is needed (drawn, or stored inside a data set)."""


@runtime_checkable
class StoredPicture(Protocol):
    """A picture inside a data set, which knows the hash of its bytes."""

    def __call__(self) -> Image.Image:
        """Open the picture."""

    def image_hash(self) -> str | None:
        """16 hexadecimal digits; None where the bytes are missing."""


def image_hash(picture: Picture) -> str | None:
    """The hash of a picture's bytes; None where it is drawn, or cannot be read."""
    if isinstance(picture, Path):
        return picture_hash(picture)
    return picture.image_hash() if isinstance(picture, StoredPicture) else None


@dataclass(frozen=True)
class Sample:
    """One question about one picture.

    Attributes:
        id: unique within the task.
        image: name of the picture, equal for all samples of one picture. For a file the runner records its path.
        picture: the picture. If it cannot be opened (`ImageError`), the sample is recorded as failed.
        question: the prompt, verbatim.
        fields: what scoring and readers need beside the answer, as plain JSON values: truth, split, kind.
        group: `--limit` draws samples of one group together; the id if empty.
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
        question: the prompt.
        text: the generated text; empty if the sample failed.
        tokens: number of generated tokens, the end token included.
        finished: whether the model ended the text before the token limit.
        error: why there is no answer, in one sentence; None if there is one.
        fields: the sample's.
        image_hash: of the picture's bytes, 16 hexadecimal digits; None where it was drawn or could not be read.
    """

    id: str
    image: str
    question: str
    text: str
    tokens: int
    finished: bool
    error: str | None
    fields: Mapping[str, Any] = field(default_factory=dict)
    image_hash: str | None = None


@dataclass(frozen=True)
class Scored:
    """A task's score of a set of answers.

    Attributes:
        data: the metrics as plain JSON, as the task's command prints them with `--json`: in percent where papers
            print percent, with `intervals` (name to [low, high]) and `higher_is_better` (name to true, false, or null).
        text: the same as tables.
        details: per answer, in order, the counts behind the metrics; each has the sample's `id`.
    """

    data: Mapping[str, Any]
    text: str
    details: Sequence[Mapping[str, Any]] = ()


class Task(Protocol):
    """An evaluation task.

    Attributes:
        name: as on the command line.
        version: raised when the same answers give other metrics, or the same data other samples.
    """

    name: ClassVar[str]
    version: ClassVar[int]

    @property
    def prompt(self) -> str:
        """The task's own words: the instruction, or the suffix of every question."""

    @property
    def max_new_tokens(self) -> int:
        """The longest answer in tokens, unless the user sets another limit."""

    def samples(self) -> Sequence[Sample]:
        """Return every sample, in the data's order, and check the truth, so that unusable data is refused before a run.

        Raises:
            UsageError: an option that names the data is missing.
            EvalDataError: the data is missing, broken or does not match the truth.
        """

    def score(self, answers: Sequence[Answer], folder: Path, seed: int) -> Scored:
        """Score answers, none of which failed.

        Args:
            answers: at least one, in the order of the samples.
            folder: the run folder, for files that scoring keeps (a judge's replies).
            seed: of the bootstrap.
        """


@runtime_checkable
class Particular(Protocol):
    """A task that not every model can answer."""

    def check_model(self, vlm: VLM) -> None:
        """Refuse a model before anything is asked of it.

        Raises:
            ModelError: the model cannot answer the task's questions.
        """


@dataclass(frozen=True)
class SelfAnswer:
    """An answer of a task that answers its samples itself.

    Attributes:
        text: what scoring reads; never empty.
        tokens: that were generated for it.
        finished: whether every text ended before the token limit.
    """

    text: str
    tokens: int
    finished: bool


class RunPlan(Protocol):
    """What a self-answering task needs of a run's plan; see `evals.plan.Plan`."""

    @property
    def model(self) -> str:
        """The model's name."""

    @property
    def steering(self) -> Steering | None:
        """None for the model without steering."""

    @property
    def decoding(self) -> Decoding:
        """How texts are generated."""

    @property
    def batch_size(self) -> int:
        """Most prompts in one pass."""

    @property
    def device(self) -> str:
        """See `grounding.models.load.load`."""

    @property
    def dtype(self) -> str:
        """See `grounding.models.load.load`."""


@runtime_checkable
class SelfAnswering(Protocol):
    """A task whose samples are answered by a pipeline instead of one generated text each."""

    def configuration(self, plan: RunPlan) -> dict[str, Any]:
        """Everything that decides the answers beside model, samples and decoding, as JSON values."""

    def answerer(self, vlm: VLM, plan: RunPlan) -> Callable[[Sequence[tuple[Sample, Image.Image]]], list[SelfAnswer]]:
        """Make the function from samples with their pictures to answers, in order."""


@runtime_checkable
class Comparable(Protocol):
    """A task that can also compare two runs."""

    def compare(self, a: Sequence[Answer], b: Sequence[Answer], seed: int) -> Scored:
        """Score the paired differences b - a; `a[i]` and `b[i]` answer the same sample."""
