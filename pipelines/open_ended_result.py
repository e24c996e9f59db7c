"""What open-ended segmentation returns: the instances of a picture, and how they were found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from grounding.equality import ByValue
from grounding.errors import OutputError
from grounding.files import make_folder, to_json, write_bytes, write_text
from grounding.io import CocoResult, coco_result, save_heatmaps, write_coco
from grounding.text.names import ObjectName
from grounding.types import Heatmap, Segment
from pipelines.results import Timings
from pipelines.writers import FORMATS, Format, cut_out, file_names, mask_image, png


@dataclass(frozen=True, eq=False)
class Instance(ByValue):
    """One thing found in a picture.

    Attributes:
        name: the head noun in the singular, or the category where a vocabulary was given and has one.
        words: the name as the model wrote it first, with adjectives.
        score: for ranking, in [0, 1]; see `DiscoverySettings.rank`.
        segment: mask, points and the segmenter's estimate, in the whole picture's frame.
        category_id: the category's number; None without a vocabulary, or where none fits.
        view: number of the view that it was found in; 0 is the whole picture.
        question: number of the question that named it.
        round: which mask of its map it is, from 0.
    """

    name: str
    words: str
    score: float
    segment: Segment = field(repr=False)
    category_id: int | None = None
    view: int = 0
    question: int = 0
    round: int = 0


@dataclass(frozen=True)
class NamedMap:
    """The map of one name in one view.

    Attributes:
        name: the name, and the phrase that it was read from.
        view: number of the view.
        question: number of the question.
        heatmap: over the whole picture, 0 outside the view; None where there is none.
        segments: its masks in the whole picture's frame, before instances that overlap were left out.
        reason: why it has no mask, in one sentence; empty where it has some.
    """

    name: ObjectName
    view: int
    question: int
    heatmap: Heatmap | None = field(repr=False)
    segments: tuple[Segment, ...] = field(repr=False)
    reason: str = ""


@dataclass(frozen=True)
class ListingAnswer:
    """One answer that lists objects.

    Attributes:
        view: number of the view.
        question: number of the question.
        asked: the question.
        text: the answer.
        finished: whether the model ended it before the length limit.
        repeated: whether it was ended where it began to repeat itself.
        names: the names that were looked for, in order.
        dropped: how many further names were left out, being more than `max_names`.
        tokens: how many were generated.
    """

    view: int
    question: int
    asked: str
    text: str
    finished: bool
    repeated: bool
    names: tuple[str, ...]
    dropped: int = 0
    tokens: int = 0


@dataclass(frozen=True)
class ModelRuns:
    """How often the models ran for one picture. A prompt in a batch counts as one run.

    Attributes:
        answers: texts that were generated, of questions for objects and of the request for questions.
        maps: passes that recorded maps, those of a generic prompt included.
        encoder: passes of the segmenter's image encoder.
        prompts: prompts that were given to the segmenter; with the cascade each is three passes of its mask decoder.
    """

    answers: int
    maps: int
    encoder: int
    prompts: int

    @property
    def model(self) -> int:
        """Runs of the vision-language model."""
        return self.answers + self.maps


@dataclass(frozen=True, eq=False)
class OpenEndedResult(ByValue):
    """The instances of a picture, and how they were found.

    Attributes:
        image: RGB, upright.
        instances: best first.
        answers: what the model said.
        maps: every name that was looked for, with its map.
        runs: how often the models ran.
        timings: seconds by step; `attention` is the model's, answers included; not compared by `==`.
        notes: what a reader should know, one sentence each; see `pipelines.results.ReferringResult`.
        in_vocabulary: whether names were mapped to a list of categories.
    """

    image: Image.Image = field(repr=False)
    instances: tuple[Instance, ...]
    answers: tuple[ListingAnswer, ...]
    maps: tuple[NamedMap, ...] = field(repr=False)
    runs: ModelRuns
    timings: Timings = field(compare=False)
    notes: tuple[str, ...] = ()
    in_vocabulary: bool = False

    @property
    def segments(self) -> tuple[Segment, ...]:
        """The instances' masks, best first."""
        return tuple(one.segment for one in self.instances)

    def coco(self, image_id: int = 1) -> list[CocoResult]:
        """The instances as COCO results, scored by `Instance.score`.

        With a vocabulary those whose name is no category are left out; without one categories are numbered from 1 in
        the alphabetical order of the names.
        """
        names = sorted({one.name for one in self.instances})
        results: list[CocoResult] = []
        for one in self.instances:
            category = one.category_id if self.in_vocabulary else names.index(one.name) + 1
            if category is not None:
                entry = coco_result(one.segment, image_id, category)
                entry["score"] = one.score
                results.append(entry)
        return results

    def save(
        self,
        folder: str | Path,
        name: str = "objects",
        formats: str | Sequence[Format] = ("png", "coco", "npz"),
        image_id: int = 1,
    ) -> tuple[Path, ...]:
        """Write the result to a folder. Each file is written whole or not at all.

        Args:
            folder: created where it is missing.
            name: the files' name without ending.
            formats: one or several. `png`: the image with all masks and names; `mask`: white on any mask; `cutout`: the
                image, transparent off the masks; `coco`: COCO results with RLE masks; `npz`: the maps of all names;
                `explain`: every name with its map and first mask, as a picture, and answers and names as JSON.
            image_id: of the COCO results.

        Returns:
            The files, in the order of the formats.

        Raises:
            OutputError: a format is unknown, or the folder cannot be written to.
        """
        asked = (formats,) if isinstance(formats, str) else tuple(formats)
        unknown = [one for one in asked if one not in FORMATS]
        if unknown:
            raise OutputError(f"format {unknown[0]!r} is not known: choose among {', '.join(FORMATS)}")
        make_folder(folder)
        files: list[Path] = []
        for form in (form for form in FORMATS if form in asked):
            files += self._write(Path(folder), name, form, image_id)
        return tuple(files)

    def _write(self, folder: Path, stem: str, form: Format, image_id: int) -> list[Path]:
        first, *more = (folder / name for name in file_names(stem, form))
        if form == "coco":
            return [write_coco(first, self.coco(image_id))]
        if form == "npz":
            named = {f"{number} {one.name.words}": one.heatmap for number, one in enumerate(self.maps)}
            return [save_heatmaps(first, {name: heatmap for name, heatmap in named.items() if heatmap is not None})]
        if form == "explain":
            text = to_json(self.explained(), str(more[0]), indent=2)
            return [write_bytes(first, png(self._sheet())), write_text(more[0], text + "\n")]
        if form == "png":
            from grounding.viz_instances import instance_sheet  # imports matplotlib, which is slow

            labels = [f"{one.name} {one.score:.2f}" for one in self.instances]
            return [write_bytes(first, png(instance_sheet(self.image, self.segments, labels, self.notes)))]
        mask = mask_image(self.image.size, self.segments)
        return [write_bytes(first, png(mask if form == "mask" else cut_out(self.image, mask)))]

    def explained(self) -> dict[str, Any]:
        """Answers, names and what became of each, as JSON values."""
        return {
            "answers": [answer_json(one) for one in self.answers],
            "names": [
                {
                    "name": one.name.name,
                    "words": one.name.words,
                    "plural": one.name.plural,
                    "stuff": one.name.stuff,
                    "mentions": one.name.mentions,
                    "view": one.view,
                    "question": one.question,
                    "masks": len(one.segments),
                    "reason": one.reason,
                }
                for one in self.maps
            ],
            "runs": runs_json(self.runs),
            "notes": list(self.notes),
        }

    def _sheet(self) -> Image.Image:
        from grounding.viz_nouns import NounPanel, noun_sheet

        panels = []
        for one in self.maps:
            if one.heatmap is None:
                continue
            note = f"view {one.view}, question {one.question}: {len(one.segments)} masks"
            segment = one.segments[0] if one.segments else None
            points = segment.points if segment else None
            panels.append(NounPanel((), one.name.words, note, not one.segments, one.heatmap, points, segment))
        text = " / ".join(one.text for one in self.answers)
        return noun_sheet(self.image, text, panels, ". ".join(self.notes))


def answer_json(answer: ListingAnswer) -> dict[str, Any]:
    """An answer as JSON values."""
    return {
        "view": answer.view,
        "question": answer.asked,
        "text": answer.text,
        "finished": answer.finished,
        "repeated": answer.repeated,
        "names": list(answer.names),
        **({"dropped": answer.dropped} if answer.dropped else {}),
    }


def runs_json(runs: ModelRuns) -> dict[str, int]:
    """Runs as JSON values; `model` is the sum of the vision-language model's."""
    return {
        "model": runs.model,
        "answers": runs.answers,
        "maps": runs.maps,
        "encoder": runs.encoder,
        "prompts": runs.prompts,
    }
