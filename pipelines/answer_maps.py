"""Answers to questions about pictures, with a map for every word."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from grounding.files import make_folder, write_bytes, write_text
from grounding.maps.base import image_columns
from grounding.methods import Method, run_stages
from grounding.pictures import Picture, to_image
from grounding.source import Backgrounds, refuse_particular_background
from grounding.steering.decoding import Decoding
from grounding.types import AttentionMaps, Heatmap
from pipelines.referring import DEFAULT_MODEL, method_for
from pipelines.results import MappedWord, picture_notes

if TYPE_CHECKING:
    import torch

    from grounding.models.base import VLM

PAGE, SHEET = ".html", ".png"


@dataclass(frozen=True)
class MappedAnswer:
    """A model's answer to a question about a picture, with a map for every word.

    Attributes:
        image: RGB, upright.
        question: the prompt.
        text: the answer.
        words: of the answer that own a token, in order.
        finished: whether the answer ended before the length limit.
        model: the model's name.
        method: the name of the method that made the maps.
        notes: see `pipelines.results.ReferringResult`.
    """

    image: Image.Image = field(repr=False)
    question: str
    text: str
    words: tuple[MappedWord, ...]
    finished: bool
    model: str
    method: str
    notes: tuple[str, ...] = ()

    def save(self, folder: str | Path, name: str = "answer") -> tuple[Path, ...]:
        """Write a page on which each word shows its map, and a picture with the maps of all but stop words.

        Args:
            folder: created where it is missing. Each file is written whole or not at all.
            name: the files' names without their endings.

        Returns:
            `NAME.html`, which holds all it needs, and `NAME.png`.

        Raises:
            OutputError: the folder cannot be written to.
        """
        from pipelines.answer_page import answer_page, answer_sheet

        make_folder(folder)
        page, sheet = (Path(folder) / f"{name}{ending}" for ending in (PAGE, SHEET))
        about = (f"{self.model}, method {self.method}", *self.notes)
        return (
            write_text(page, answer_page(self.image, self.question, self.text, self.words, about, self.finished)),
            write_bytes(sheet, answer_sheet(self.image, self.question, self.text, self.words, about)),
        )


class AnswerMaps:
    """Answer questions about pictures, and show where each word of an answer looks.

    >>> pipe = AnswerMaps.from_pretrained("starter")  # doctest: +SKIP
    >>> pipe("scene.png", "What is in the image?").save("out")  # doctest: +SKIP

    The maps are recorded by a second pass, under teacher forcing, from the rows of each word's own tokens; see
    `grounding.models.teacher_forcing` for the reasons.

    Args:
        vlm: the vision-language model.
        method: its stages make the maps. They read each word as they read the head noun of an expression.
        decoding: how an answer is generated; where None, up to 128 likeliest tokens that do not repeat themselves.
    """

    def __init__(self, vlm: VLM, method: Method, decoding: Decoding | None = None) -> None:
        self.vlm = vlm
        self.method = method
        self.decoding = decoding or Decoding(max_new_tokens=128, stop_at_repeats=True)
        self.spec = method.record_spec(vlm.layer_count)
        refuse_particular_background(self.spec, method.name)
        self._backgrounds = Backgrounds(vlm)

    @classmethod
    def from_pretrained(
        cls,
        model: str = DEFAULT_MODEL,
        method: str | Path = "auto",
        device: str | torch.device = "auto",
        dtype: str | torch.dtype = "auto",
        *,
        device_map: str | dict[str, Any] | None = None,
        family: str | None = None,
        decoding: Decoding | None = None,
    ) -> AnswerMaps:
        """Load model and method by name.

        Args:
            model: `starter`, a folder written by `save_pretrained`, or a hub id.
            method: a shipped method's name, a YAML file, or `auto`; see `pipelines.referring.method_for`.
            device: `auto`, `cpu`, `cuda`, `cuda:1` or `mps`.
            dtype: `auto`, `float32`, `bfloat16` or `float16`.
            device_map: spreads the model over devices through accelerate.
            family: of the model, where not its own; see `grounding.models.load.load`.
            decoding: how answers are generated.

        Raises:
            GroundingError: something of this is unknown, missing or too large; see the loaders.
        """
        from grounding.models.load import load

        chosen = method_for(model, method)
        return cls(load(model, device, dtype, device_map, family=family), chosen, decoding)

    def __call__(self, image: Picture, question: str | None = None, answer: str | None = None) -> MappedAnswer:
        """Answer a question about a picture.

        Args:
            image: a picture or its path.
            question: the prompt; the model's request for a description where None.
            answer: a text whose words are mapped in place of the model's own answer.

        Raises:
            ImageError: the picture is missing, broken, too small or too large.
            ExpressionError: question or answer have words outside a closed vocabulary, among others.
            ModelError: out of memory, among others.
        """
        from grounding.models.answer_words import answer_words
        from grounding.models.teacher_forcing import tokens_of
        from grounding.steering.generate import generate

        picture = to_image(image)
        asked = self.vlm.default_question if question is None else question
        prepared = self.vlm.prepare_questions([picture], [asked])
        finished = True
        if answer is None:
            [generated] = generate(self.vlm, [picture], [asked], decoding=self.decoding)
            tokens, finished = generated.token_ids, generated.finished
        else:
            tokens = tokens_of(self.vlm, answer)
        found = answer_words(self.vlm, prepared, tokens, self.spec)
        background = self._background(picture) if found.words else None
        words = tuple(
            MappedWord(word.text, word.span, word.kind, _share(maps), self._map(maps, background))
            for word, maps in zip(found.words, found.maps, strict=True)
        )
        notes = picture_notes(picture, prepared.layouts[0].grids)
        return MappedAnswer(picture, asked, found.text, words, finished, self.vlm.name, self.method.name, notes)

    def _map(self, maps: AttentionMaps, background: AttentionMaps | None) -> Heatmap:
        return run_stages(self.method, replace(maps, background=background))

    def _background(self, image: Image.Image) -> AttentionMaps | None:
        """The maps under the method's generic prompt, if it has one."""
        return None if self.spec.background_prompt is None else self._backgrounds.of([image], self.spec)[0]


def _share(maps: AttentionMaps) -> float:
    """How much of the first word's attention falls on the picture."""
    return float(maps.values[:, :, :, 0, image_columns(maps)].sum(axis=-1).mean())
