"""What the pipelines return. Pixel coordinates are (x, y) in the original image, origin top left."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from grounding.candidates.base import RankedCandidate
from grounding.equality import ByValue
from grounding.errors import OutputError
from grounding.files import file_stem, make_folder
from grounding.geometry import uncovered_share
from grounding.images import notes_of
from grounding.layout import ImageGrid
from grounding.maps.support import VisualSupport
from grounding.types import Heatmap, PointPrompts, Segment, StageReport, WordKind
from pipelines.writers import FORMATS, Format, write_noun_sheet, write_result

if TYPE_CHECKING:
    from grounding.explanation import Explanation
    from grounding.viz_nouns import NounPanel

MASK_FITS = 0.005
"""Agreement of map and mask below which no mask fits: what is printed as 0.00."""
UNSTEERED = "unsteered"
STEERED = "steered"
LEAST_UNSEEN = 0.01  # share of a picture from which on it is a note; less is rounding of a resize


@dataclass(frozen=True)
class Timings:
    """Seconds spent on one result; time shared by several results is split evenly among them.

    Attributes:
        attention: the model's recorded forward pass, the generic prompt's included.
        stages: from recorded maps to heat map and points.
        encode: the segmenter's image encoder.
        mask: the segmenter's masks for the points, and the choice of one.
    """

    attention: float
    stages: float
    encode: float
    mask: float

    @property
    def total(self) -> float:
        """The sum in seconds."""
        return self.attention + self.stages + self.encode + self.mask


@dataclass(frozen=True, eq=False)
class ReferringResult(ByValue):
    """The mask of a referring expression, and how it was found.

    Attributes:
        image: RGB, upright.
        expression: the words.
        segments: the masks, best first; today's methods give one, or none where nothing fits.
        map: where the expression's words attend, [h, w] in [0, 1] over the whole image.
        points: the segmenter's point prompts, in pixels of the image.
        timings: seconds by step; not compared by `==`.
        notes: what a reader of the result should know about the picture: a share that the model does not see, frames
            that were not read, values that were scaled; one sentence each. Also why there is no mask.
        explanation: what led to the result, where it was asked for.
        ranking: the best of the candidates, best first, each with its reasons.
        confidence: the probability that the best candidate is right, in [0, 1]; None where none was fitted for this
            model, segmenter and kind of candidates.
        verified: the model's share of yes for the regions that it was shown again, in the order shown; None where it
            was not asked.
    """

    image: Image.Image = field(repr=False)
    expression: str
    segments: tuple[Segment, ...] = field(repr=False)
    map: Heatmap = field(repr=False)
    points: PointPrompts = field(repr=False)
    timings: Timings = field(compare=False)
    notes: tuple[str, ...] = ()
    explanation: Explanation | None = field(default=None, repr=False)
    ranking: tuple[RankedCandidate, ...] = field(default=(), repr=False)
    confidence: float | None = None
    verified: tuple[float, ...] | None = None

    @property
    def stages(self) -> tuple[StageReport, ...]:
        """What each stage of the method removed, in order."""
        return self.map.stages

    def save(
        self,
        folder: str | Path,
        name: str | None = None,
        formats: str | Sequence[Format] = ("png", "coco", "npz"),
        image_id: int = 1,
    ) -> tuple[Path, ...]:
        """Write the result to a folder. Each file is written whole or not at all.

        Args:
            folder: created where it is missing.
            name: the files' name without ending; made of the expression where None.
            formats: one or several. `png`: the image with map, points and mask; `mask`: white on the mask, black off
                it, in the image's size; `cutout`: the image, transparent off the mask; `coco`: a list of COCO results
                with RLE masks; `npz`: the map with what each stage removed; `explain`: the `explanation`, as the
                picture `NAME.explain.png` and as `NAME.explain.json`, which `grounding.explanation` describes.
            image_id: of the COCO results: the image's number in the ground truth.

        Returns:
            The files, in the order of `formats`.

        Raises:
            OutputError: a format is unknown, `explain` was asked for without an explanation, or the folder cannot be
                written to.
        """
        asked = (formats,) if isinstance(formats, str) else tuple(formats)
        known = tuple(form for one in asked for form in FORMATS if form == one)
        if len(known) < len(asked):
            unknown = next(one for one in asked if one not in FORMATS)
            raise OutputError(f"format {unknown!r} is not known: choose among {', '.join(FORMATS)}")
        if "explain" in known and self.explanation is None:
            raise OutputError("the result holds no explanation: make the pipeline with explain=True")
        stem = file_stem(self.expression) if name is None else name
        return write_result(
            Path(folder),
            stem,
            known,
            self.image,
            self.map,
            self.segments,
            self.expression,
            image_id,
            self.notes,
            self.explanation,
        )


def picture_notes(image: Image.Image, grids: Sequence[ImageGrid]) -> tuple[str, ...]:
    """The notes of a result.

    Args:
        image: as `grounding.images` opened it.
        grids: the parts of it that the model sees; empty where that is not known.
    """
    unseen = uncovered_share([grid.box_xyxy for grid in grids], image.size) if grids else 0.0
    share = "more than 99%" if unseen >= 0.995 else f"{unseen:.0%}"  # nearly all is not called all
    note = (f"{share} of the picture lies outside what the model sees, so nothing there can be found",)
    return (*notes_of(image), *(note if unseen >= LEAST_UNSEEN else ()))


@dataclass(frozen=True)
class MappedWord:
    """A word of an answer, and where it attends.

    Attributes:
        text: the word as written.
        span: (start, end) characters in the answer, end exclusive.
        kind: what the word is; stop words have maps too.
        share: how much of the word's attention falls on the picture, in [0, 1]: the mean over the method's layers and
            all heads.
        map: where, [h, w] in [0, 1] over the whole image; its largest value is 1 however small the share is.
    """

    text: str
    span: tuple[int, int]
    kind: WordKind
    share: float
    map: Heatmap = field(repr=False)


@dataclass(frozen=True)
class NounSupport:
    """A noun of a text, and its visual support.

    Attributes:
        text: the noun with its adjectives, as written.
        noun: the noun alone.
        span: (start, end) characters of `text` in the whole text, end exclusive.
        map: where the noun attends, [h, w] in [0, 1] over the whole image.
        points: the map's point prompts in pixels; None where no cell of the map is positive.
        segment: the mask; None without a segmenter or without points.
        support: the score and its parts.
        supported: whether there are points and the support reaches the threshold; None where no threshold was measured
            for the model or given, and so there is no verdict.
    """

    text: str
    noun: str
    span: tuple[int, int]
    map: Heatmap = field(repr=False)
    points: PointPrompts | None = field(repr=False)
    segment: Segment | None = field(repr=False)
    support: VisualSupport
    supported: bool | None

    @property
    def without_mask(self) -> bool:
        """Whether a mask was asked for and none covers the map; its agreement is printed as 0.00."""
        return self.segment is not None and (self.support.agreement or 0.0) < MASK_FITS


@dataclass(frozen=True)
class NounMentions:
    """All mentions of one noun in a text.

    Attributes:
        noun: the noun, in lower case.
        mentions: at least one, in order.
    """

    noun: str
    mentions: tuple[NounSupport, ...]

    @property
    def title(self) -> str:
        """The noun with its adjectives where it is mentioned once, else the noun and how often it is mentioned."""
        return self.mentions[0].text if len(self.mentions) == 1 else f"{self.noun}, {len(self.mentions)} times"

    @property
    def strongest(self) -> NounSupport:
        """The mention with the highest support."""
        return max(self.mentions, key=lambda one: one.support.value)

    @property
    def flags(self) -> str:
        """What is wrong with the mentions, each with how many if not all: `unsupported`, `no fitting mask`."""
        counts = {
            "unsupported": sum(one.supported is False for one in self.mentions),
            "no fitting mask": sum(one.without_mask for one in self.mentions),
        }
        every = len(self.mentions)
        said = [name if count == every else f"{name} in {count} of {every}" for name, count in counts.items() if count]
        return ", ".join(said)

    @property
    def note(self) -> str:
        """Support and its parts on one line, with one number per mention."""
        parts = [one.support for one in self.mentions]
        note = f"support {_numbers(part.value for part in parts)}"
        note += f": gaze {_numbers(part.image_mass_ratio for part in parts)}"
        note += f", sharp {_numbers(part.sharpness for part in parts)}"
        agreements = [part.agreement for part in parts if part.agreement is not None]
        return f"{note}, mask {_numbers(agreements)}" if agreements else note


def _numbers(values: Iterable[float]) -> str:
    return " ".join(f"{value:.2f}" for value in values)


@dataclass(frozen=True)
class Caption:
    """One text about an image.

    Attributes:
        text: the text.
        nouns: its nouns, in order.
        finished: whether generation ended with the end token, before the length limit.
        repeated: whether it was ended where the text began to repeat itself.
        tokens: how many were generated, the end token included.
        seconds: of the whole generation, prefill included; None for a text that was given; not compared by `==`.
        threshold: the support from which a noun counts as supported; None for no verdict.
    """

    text: str
    nouns: tuple[NounSupport, ...]
    finished: bool
    repeated: bool
    tokens: int
    seconds: float | None = field(compare=False)
    threshold: float | None

    @property
    def tokens_per_second(self) -> float | None:
        """Tokens per second of the whole generation; None for a text that was given."""
        return self.tokens / self.seconds if self.seconds else None

    @property
    def unsupported(self) -> tuple[NounSupport, ...]:
        """The flagged nouns."""
        return tuple(noun for noun in self.nouns if noun.supported is False)

    @property
    def by_noun(self) -> tuple[NounMentions, ...]:
        """The nouns, each once, in the order of their first mentions."""
        found: dict[str, list[NounSupport]] = {}
        for noun in self.nouns:
            found.setdefault(noun.noun.lower(), []).append(noun)
        return tuple(NounMentions(noun, tuple(mentions)) for noun, mentions in found.items())

    @property
    def summary(self) -> str:
        """How many nouns there are, and how many mentions are flagged or why none is, on one line."""
        nouns, mentions = len(self.by_noun), len(self.nouns)
        parts = [f"{nouns} noun{'s' * (nouns != 1)}" + (f" in {mentions} mentions" if mentions > nouns else "")]
        if self.threshold is not None:
            parts.append(f"{len(self.unsupported)} unsupported")
        elif nouns:
            parts.append("no verdict (no threshold of support was measured for this model: give one)")
        if not self.finished:
            parts.append("ended where it repeats itself" if self.repeated else "cut off")
        return ", ".join(parts)


@dataclass(frozen=True)
class Description:
    """A model's description of an image.

    Attributes:
        image: RGB, upright.
        question: the prompt.
        unsteered: the text of the model without steering.
        steered: the text with steering, from the same seed; None without a steering method.
        steering: the steering method's name; None without one.
        seed: of both texts.
        notes: see `ReferringResult`.
    """

    image: Image.Image = field(repr=False)
    question: str
    unsteered: Caption
    steered: Caption | None
    steering: str | None
    seed: int
    notes: tuple[str, ...] = ()

    @property
    def captions(self) -> dict[str, Caption]:
        """The texts by `unsteered` and `steered`."""
        return {UNSTEERED: self.unsteered} | ({STEERED: self.steered} if self.steered else {})

    def file_names(self, name: str) -> tuple[str, ...]:
        """The names of the files that `save` writes."""
        return tuple(f"{name}-{label}.png" for label in self.captions)

    def save(self, folder: str | Path, name: str = "description") -> tuple[Path, ...]:
        """Write one picture per text: the strongest mention of every noun, with map, points and mask over the image.

        Flagged nouns are red, in the text and below their panels.

        Args:
            folder: created where it is missing. Each file is written whole or not at all.
            name: the beginning of the files' names.

        Returns:
            The files: `NAME-unsteered.png` and, with a steering method, `NAME-steered.png`.

        Raises:
            OutputError: the folder cannot be written to.
        """
        make_folder(folder)
        files = []
        for file, (label, caption) in zip(self.file_names(name), self.captions.items(), strict=True):
            panels = [_panel(noun) for noun in caption.by_noun]
            title = ". ".join((f"{self.title(label)}: {caption.summary}", *self.notes))
            files.append(write_noun_sheet(Path(folder) / file, self.image, caption.text, panels, title))
        return tuple(files)

    def title(self, label: str) -> str:
        """The heading of a text: its label, with the steering method's name where it has one."""
        return label if label == UNSTEERED else f"{label} by {self.steering}"


def _panel(noun: NounMentions) -> NounPanel:
    from grounding.viz_nouns import NounPanel

    best = noun.strongest
    flagged = tuple(one.span for one in noun.mentions if one.supported is False)
    note = f"{noun.flags}; {noun.note}" if noun.flags else noun.note
    return NounPanel(flagged, noun.title, note, bool(noun.flags), best.map, best.points, best.segment)
