"""A description of a picture whose nouns have to show where they come from, steered and unsteered side by side."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from PIL import Image

from grounding.errors import MethodError
from grounding.io import as_rgb, open_image
from grounding.maps.support import VisualSupport, supports
from grounding.methods import Method, run_stages
from grounding.steering.decoding import Decoding, Generated
from grounding.steering.method import Steering, load_steering
from grounding.text.nouns import NounPhrase
from grounding.types import AttentionMaps, Heatmap, PointPrompts, Segment
from pipelines.describe_files import save_description
from pipelines.referring import DEFAULT_MODEL, Picture, method_for

if TYPE_CHECKING:
    import torch

    from grounding.models.base import VLM, Prepared
    from grounding.models.teacher_forcing import TextMaps
    from grounding.segmenters.base import Segmenter

UNSTEERED = "unsteered"
STEERED = "steered"
Pictures = list[Picture] | tuple[Picture, ...]
Stream = Callable[[str], Any]
"""Asked for a streamer (transformers' kind) before each text, with `unsteered` or `steered`; None for no streaming."""


@dataclass(frozen=True)
class NounSupport:
    """A noun of a description, and what in the picture speaks for it.

    Attributes:
        text: the noun with its adjectives, as written.
        noun: the noun alone.
        span: (start, end) characters of `text` in the description.
        map: where the model looks for it, [h, w] in [0, 1].
        points: the map's points in pixels; None where no cell of the map stands out.
        segment: the mask, where masks were asked for and there are points.
        support: what speaks for it, part by part.
        supported: whether it has points and its support reaches the threshold, if there is one.
    """

    text: str
    noun: str
    span: tuple[int, int]
    map: Heatmap = field(repr=False)
    points: PointPrompts | None = field(repr=False)
    segment: Segment | None = field(repr=False)
    support: VisualSupport
    supported: bool


@dataclass(frozen=True)
class Caption:
    """One text about a picture.

    Attributes:
        text: what was said.
        nouns: its nouns in order.
        finished: whether the text ended by itself.
        tokens: how many were generated, the end token included.
        seconds: of the whole generation, the reading of picture and question included; None for a text that was given.
    """

    text: str
    nouns: tuple[NounSupport, ...]
    finished: bool
    tokens: int
    seconds: float | None

    @property
    def tokens_per_second(self) -> float | None:
        """Tokens per second of the whole generation."""
        return self.tokens / self.seconds if self.seconds else None

    @property
    def unsupported(self) -> tuple[NounSupport, ...]:
        """The flagged nouns."""
        return tuple(noun for noun in self.nouns if not noun.supported)


@dataclass(frozen=True)
class Description:
    """What a model says about a picture.

    Attributes:
        image: the picture as RGB, upright.
        question: what was asked.
        unsteered: the model's own text.
        steered: the steered model's text from the same seed, where a steering method was given.
        steering: that method's name.
        seed: of both.
    """

    image: Image.Image = field(repr=False)
    question: str
    unsteered: Caption
    steered: Caption | None
    steering: str | None
    seed: int

    @property
    def captions(self) -> dict[str, Caption]:
        """The texts by `unsteered` and `steered`."""
        return {UNSTEERED: self.unsteered} | ({STEERED: self.steered} if self.steered else {})

    def save(self, folder: str | Path, name: str = "description") -> tuple[Path, ...]:
        """Write one picture a text, its nouns' maps, points and masks over the image, flagged nouns in red.

        Args:
            folder: where to; made where it is missing. Each file appears whole or not at all.
            name: the beginning of the files' names.

        Returns:
            The files: `NAME-unsteered.png` and, where there is one, `NAME-steered.png`.

        Raises:
            OutputError: the folder cannot be written to.
        """
        return save_description(self, Path(folder), name)


class FaithfulDescription:
    """Describe pictures, steered or not, and say of every noun what in the picture speaks for it.

    >>> pipe = FaithfulDescription.from_pretrained("starter")  # doctest: +SKIP
    >>> [noun.text for noun in pipe("scene.png").unsteered.unsupported]  # doctest: +SKIP

    Texts are written one at a time, so that they can be streamed and their speeds compared. Whoever wrote a text, its
    nouns are judged by the plain model under teacher forcing; see `grounding.models.teacher_forcing` for the reasons.

    Args:
        vlm: the vision-language model.
        method: how maps become points.
        segmenter: what turns points into masks; None for no masks.
        steering: the method to compare the plain model with; None writes the plain text alone.
        decoding: how both texts are generated.
        threshold: support below which a noun is flagged, in [0, 1]; the model's own where None. A model for which none
            was measured has none: only nouns whose map shows no place at all are then flagged.

    Raises:
        MethodError: the threshold is no number in [0, 1].
    """

    def __init__(
        self,
        vlm: VLM,
        method: Method,
        segmenter: Segmenter | None = None,
        steering: Steering | None = None,
        decoding: Decoding | None = None,
        threshold: float | None = None,
    ) -> None:
        if threshold is not None and not 0 <= threshold <= 1:
            raise MethodError(f"a threshold of {threshold} was given, expected a support in [0, 1]")
        self.vlm = vlm
        self.method = method
        self.segmenter = segmenter
        self.steering = steering
        self.decoding = decoding or Decoding()
        self.threshold = vlm.support_threshold if threshold is None else threshold
        self.knobs = method.request_knobs(vlm.layer_count)
        self._warm = False

    @classmethod
    def from_pretrained(
        cls,
        model: str = DEFAULT_MODEL,
        segmenter: str | None = None,
        method: str | Path = "auto",
        device: str | torch.device = "auto",
        dtype: str | torch.dtype = "auto",
        *,
        device_map: str | dict[str, Any] | None = None,
        steer: str | Path | None = None,
        decoding: Decoding | None = None,
        threshold: float | None = None,
    ) -> FaithfulDescription:
        """Load model, segmenter, method and steering by name.

        Args:
            model: `starter`, a folder written by `save_pretrained`, or a hub id.
            segmenter: see `grounding.segmenters.load.load_segmenter`; None for no masks.
            method: how maps become points; see `pipelines.referring.method_for`.
            device: `auto`, `cpu`, `cuda`, `cuda:1` or `mps`.
            dtype: `auto`, `float32`, `bfloat16` or `float16`.
            device_map: spreads the model over devices through accelerate; `device` is then the segmenter's alone.
            steer: a steering method's name or YAML file.
            decoding: how texts are generated.
            threshold: support below which a noun is flagged, in [0, 1]; the model's own where None.

        Raises:
            GroundingError: something of this is unknown, missing or too large; see the loaders.
        """
        from grounding.models.load import load
        from grounding.segmenters.load import load_segmenter

        # What is read in no time comes first: a misspelt name should not cost a model's loading.
        chosen = method_for(model, method)
        steering = None if steer is None else load_steering(steer)
        vlm = load(model, device, dtype, device_map)
        masks = None if segmenter is None else load_segmenter(segmenter, device, dtype)
        return cls(vlm, chosen, masks, steering, decoding, threshold)

    @overload
    def __call__(
        self, images: Picture, question: str | None = None, *, stream: Stream | None = None
    ) -> Description: ...

    @overload
    def __call__(
        self, images: Pictures, question: str | None = None, *, stream: Stream | None = None
    ) -> list[Description]: ...

    def __call__(
        self, images: Picture | Pictures, question: str | None = None, *, stream: Stream | None = None
    ) -> Description | list[Description]:
        """Describe pictures.

        Args:
            images: a picture or its path, or a list of them.
            question: what to ask; the model's own request for a description where None.
            stream: where tokens go as they come; not with beams, which have no last token until the end.

        Returns:
            One description, or a list in the order of the pictures.

        Raises:
            ImageError: a picture that is missing, broken, too small or too large.
            ExpressionError: a question with words outside a closed vocabulary, among others.
            MethodError: the steering method does not fit the model or the way of decoding.
            ModelError: out of memory, among others.
        """
        if isinstance(images, Image.Image | str | Path):
            return self._describe(_opened(images), question, stream)
        return [self._describe(_opened(image), question, stream) for image in images]

    def check(self, image: Picture, text: str, question: str | None = None) -> Caption:
        """Judge the nouns of a text that somebody else wrote.

        Args:
            image: the picture or its path.
            text: what is said about it.
            question: what the text answers; the model's own request for a description where None.

        Raises:
            ExpressionError: text or question has words outside a closed vocabulary.
        """
        from grounding.models.teacher_forcing import tokens_of

        picture = _opened(image)
        prepared = self.vlm.prepare_questions([picture], [self._question(question)])
        tokens = tokens_of(self.vlm, text)
        return self._caption(picture, prepared, Generated(text, tokens, True), None)

    def _question(self, question: str | None) -> str:
        return self.vlm.default_question if question is None else question

    def _describe(self, image: Image.Image, question: str | None, stream: Stream | None) -> Description:
        asked = self._question(question)
        prepared = self.vlm.prepare_questions([image], [asked])
        ways: dict[str, Steering | None] = {UNSTEERED: None}
        if self.steering is not None:
            ways[STEERED] = self.steering
            self._warm_up(image, asked)
        captions = {}
        for label, steering in ways.items():
            generated, seconds = self._generate(image, asked, steering, stream(label) if stream else None)
            captions[label] = self._caption(image, prepared, generated, seconds)
        name = self.steering.name if self.steering else None
        return Description(image, asked, captions[UNSTEERED], captions.get(STEERED), name, self.decoding.seed)

    def _generate(
        self, image: Image.Image, question: str, steering: Steering | None, streamer: Any
    ) -> tuple[Generated, float]:
        from grounding.steering.generate import generate

        started = time.perf_counter()
        generated = generate(self.vlm, [image], [question], steering, self.decoding, streamer)[0]
        return generated, time.perf_counter() - started

    def _warm_up(self, image: Image.Image, question: str) -> None:
        """One short text that is thrown away: what a first call pays for must not count against the plain model."""
        from grounding.steering.generate import generate

        if not self._warm:
            generate(self.vlm, [image], [question], decoding=replace(self.decoding, max_new_tokens=2))
        self._warm = True

    def _caption(self, image: Image.Image, prepared: Prepared, generated: Generated, seconds: float | None) -> Caption:
        from grounding.models.teacher_forcing import teacher_forced_maps

        read = teacher_forced_maps(
            self.vlm,
            prepared,
            [generated.token_ids],
            reduce=self.knobs.reduce,
            head_statistics=self.knobs.head_statistics,
        )[0]
        nouns = tuple(self._nouns(image, read))
        return Caption(read.text, nouns, generated.finished, len(generated.token_ids), seconds)

    def _nouns(self, image: Image.Image, read: TextMaps) -> Iterator[NounSupport]:
        if read.reference_words is None:
            return
        background = self._background(image)
        encoded = False
        for phrase, maps, support in zip(
            read.phrases, read.maps, supports(read.maps, read.reference_words), strict=True
        ):
            heatmap = run_stages(self.method, replace(maps, background=background))
            points = self.method.points(heatmap) if heatmap.values.any() else None
            segment = None
            if self.segmenter is not None and points is not None:
                if not encoded:
                    self.segmenter.set_image(image)
                    encoded = True
                segment = self._segment(self.segmenter, heatmap, points, phrase)
                support = replace(support, agreement=max(0.0, segment.agreement or 0.0))
            supported = points is not None and (self.threshold is None or support.value >= self.threshold)
            yield NounSupport(phrase.text, phrase.noun.text, phrase.span, heatmap, points, segment, support, supported)

    def _segment(self, segmenter: Segmenter, heatmap: Heatmap, points: PointPrompts, phrase: NounPhrase) -> Segment:
        from grounding.segmenters.mask_selection import MaskRule, predict_mask

        wanted = self.method.mask
        rule = MaskRule(wanted.choice, wanted.measure)
        return predict_mask(segmenter, points, heatmap, rule, wanted.cascade, phrase.text)

    def _background(self, image: Image.Image) -> AttentionMaps | None:
        """The maps of the method's generic prompt, of all layers as those of the nouns are."""
        from grounding.models.maps import attend

        if self.knobs.background_prompt is None:
            return None
        prepared = self.vlm.prepare([image], [""], self.knobs.background_prompt)
        return attend(
            self.vlm,
            prepared,
            reduce=self.knobs.reduce,
            head_statistics=self.knobs.head_statistics,
            residual_sinks=self.knobs.residual_sinks,
        )[0]


def _opened(picture: Picture) -> Image.Image:
    return as_rgb(picture) if isinstance(picture, Image.Image) else open_image(picture)
