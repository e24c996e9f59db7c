"""What the pipelines return. Pixel coordinates are (x, y) in the original image, origin top left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from grounding.equality import ByValue
from grounding.errors import OutputError
from grounding.files import file_stem, make_folder
from grounding.geometry import uncovered_share
from grounding.images import notes_of
from grounding.layout import ImageGrid
from grounding.maps.support import VisualSupport
from grounding.types import Heatmap, PointPrompts, Segment, StageReport
from pipelines.writers import FORMATS, Format, write_noun_sheet, write_result

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
        segments: the masks, best first; today's methods give one.
        map: where the expression's words attend, [h, w] in [0, 1] over the whole image.
        points: the segmenter's point prompts, in pixels of the image.
        timings: seconds by step; not compared by `==`.
        notes: what a reader of the result should know about the picture: a share that the model does not see, frames
            that were not read, values that were scaled; one sentence each.
    """

    image: Image.Image = field(repr=False)
    expression: str
    segments: tuple[Segment, ...] = field(repr=False)
    map: Heatmap = field(repr=False)
    points: PointPrompts = field(repr=False)
    timings: Timings = field(compare=False)
    notes: tuple[str, ...] = ()

    @property
    def stages(self) -> tuple[StageReport, ...]:
        """What each stage of the method removed, in order."""
        return self.map.stages

    def save(
        self, folder: str | Path, name: str | None = None, formats: str | Sequence[Format] = ("png", "coco", "npz")
    ) -> tuple[Path, ...]:
        """Write the result to a folder. Each file is written whole or not at all.

        Args:
            folder: created where it is missing.
            name: the files' name without ending; made of the expression where None.
            formats: one or several. `png`: the image with map, points and mask; `coco`: a list of COCO results with RLE
                masks; `npz`: the map with what each stage removed.

        Returns:
            The files, in the order of `formats`.

        Raises:
            OutputError: a format is unknown, or the folder cannot be written to.
        """
        asked = (formats,) if isinstance(formats, str) else tuple(formats)
        known = tuple(form for one in asked for form in FORMATS if form == one)
        if len(known) < len(asked):
            unknown = next(one for one in asked if one not in FORMATS)
            raise OutputError(f"format {unknown!r} is not known: choose among {', '.join(FORMATS)}")
        stem = file_stem(self.expression) if name is None else name
        return write_result(
            Path(folder), stem, known, self.image, self.map, self.segments, self.expression, notes=self.notes
        )


def picture_notes(image: Image.Image, grids: Sequence[ImageGrid]) -> tuple[str, ...]:
    """The notes of a result.

    Args:
        image: as `grounding.images` opened it.
        grids: the parts of it that the model sees; empty where that is not known.
    """
    unseen = uncovered_share([grid.box_xyxy for grid in grids], image.size) if grids else 0.0
    note = (f"{unseen:.0%} of the picture lie outside what the model sees, so nothing there can be found",)
    return (*notes_of(image), *(note if unseen >= LEAST_UNSEEN else ()))


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
        supported: whether there are points and the support reaches the threshold, if there is one.
    """

    text: str
    noun: str
    span: tuple[int, int]
    map: Heatmap = field(repr=False)
    points: PointPrompts | None = field(repr=False)
    segment: Segment | None = field(repr=False)
    support: VisualSupport
    supported: bool

    @property
    def note(self) -> str:
        """The support and its parts on one line."""
        parts = self.support
        note = f"support {parts.value:.2f}: gaze {parts.image_mass_ratio:.2f}, sharp {parts.sharpness:.2f}"
        return note if parts.agreement is None else f"{note}, mask {parts.agreement:.2f}"


@dataclass(frozen=True)
class Caption:
    """One text about an image.

    Attributes:
        text: the text.
        nouns: its nouns, in order.
        finished: whether generation ended with the end token, before the length limit.
        tokens: how many were generated, the end token included.
        seconds: of the whole generation, prefill included; None for a text that was given; not compared by `==`.
    """

    text: str
    nouns: tuple[NounSupport, ...]
    finished: bool
    tokens: int
    seconds: float | None = field(compare=False)

    @property
    def tokens_per_second(self) -> float | None:
        """Tokens per second of the whole generation; None for a text that was given."""
        return self.tokens / self.seconds if self.seconds else None

    @property
    def unsupported(self) -> tuple[NounSupport, ...]:
        """The flagged nouns."""
        return tuple(noun for noun in self.nouns if not noun.supported)

    @property
    def summary(self) -> str:
        """How many nouns there are and how many are flagged, on one line."""
        cut_off = "" if self.finished else ", cut off"
        return f"{len(self.nouns)} nouns, {len(self.unsupported)} unsupported{cut_off}"


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
        """Write one picture per text: its nouns' maps, points and masks over the image, flagged nouns in red.

        Args:
            folder: created where it is missing. Each file is written whole or not at all.
            name: the beginning of the files' names.

        Returns:
            The files: `NAME-unsteered.png` and, with a steering method, `NAME-steered.png`.

        Raises:
            OutputError: the folder cannot be written to.
        """
        from grounding.viz_nouns import NounPanel

        make_folder(folder)
        files = []
        for file, (label, caption) in zip(self.file_names(name), self.captions.items(), strict=True):
            panels = [
                NounPanel(noun.span, noun.text, noun.note, not noun.supported, noun.map, noun.points, noun.segment)
                for noun in caption.nouns
            ]
            title = ". ".join((f"{self.title(label)}: {caption.summary}", *self.notes))
            files.append(write_noun_sheet(Path(folder) / file, self.image, caption.text, panels, title))
        return tuple(files)

    def title(self, label: str) -> str:
        """The heading of a text: its label, with the steering method's name where it has one."""
        return label if label == UNSTEERED else f"{label} by {self.steering}"
