"""Descriptions of pictures with a map and the visual support of every noun, steered and unsteered."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from PIL import Image

from grounding.errors import MethodError
from grounding.maps.support import supports
from grounding.methods import Method, run_stages
from grounding.pictures import Picture, is_picture, to_image
from grounding.source import Backgrounds, refuse_particular_background
from grounding.sources import method_for
from grounding.steering.decoding import Decoding, Generated
from grounding.steering.method import Steering, load_steering
from grounding.text.nouns import NounPhrase
from grounding.types import AttentionMaps, Heatmap, PointPrompts, Segment
from pipelines.referring import DEFAULT_MODEL
from pipelines.results import STEERED, UNSTEERED, Caption, Description, NounSupport, picture_notes

if TYPE_CHECKING:
    import torch

    from grounding.models.base import VLM
    from grounding.models.prepared import Prepared
    from grounding.models.teacher_forcing import TextMaps
    from grounding.segmenters.base import Segmenter

Pictures = list[Picture] | tuple[Picture, ...]
Stream = Callable[[str], Any]
"""Called before each text with `unsteered` or `steered`; returns a streamer of transformers, or None."""


class FaithfulDescription:
    """Describe pictures, steered or not, and measure the visual support of every noun.

    >>> pipe = FaithfulDescription.from_pretrained("starter")  # doctest: +SKIP
    >>> [noun.text for noun in pipe("scene.png").unsteered.unsupported]  # doctest: +SKIP

    Texts are generated one at a time, so that they can be streamed and their speeds compared. Support is measured with
    the unsteered model under teacher forcing; see `grounding.models.teacher_forcing` for the reasons.

    Args:
        vlm: the vision-language model.
        method: stages and point rule.
        segmenter: turns point prompts into masks; None for no masks.
        steering: the steering method to compare with the unsteered model; None for the unsteered text only.
        decoding: how both texts are generated; where None, up to 512 likeliest tokens that do not repeat themselves.
        threshold: support below which a noun is not supported, in [0, 1]; the model's own where None. Without either
            there is no verdict on nouns.

    Raises:
        MethodError: the threshold is not in [0, 1], or the steering method does not fit the model or the decoding.
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
        self.decoding = decoding or Decoding(stop_at_repeats=True)
        if steering is not None:
            from grounding.steering.generate import check_steering

            check_steering(steering, vlm, self.decoding)
        self.threshold = vlm.support_threshold if threshold is None else threshold
        spec = method.record_spec(vlm.layer_count)
        # Visual support is a mean over all layers of softmax attention; other methods select their own from them.
        self._apart = spec.flow is not None or spec.attention == "linear"
        self.spec = spec if self._apart else replace(spec, layers=None)
        refuse_particular_background(self.spec, method.name)
        self._backgrounds = Backgrounds(vlm)
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
        family: str | None = None,
        steer: str | Path | None = None,
        decoding: Decoding | None = None,
        threshold: float | None = None,
        nouns: str = "rules",
    ) -> FaithfulDescription:
        """Load model, segmenter, method and steering by name.

        Args:
            model: `starter`, a folder written by `save_pretrained`, or a hub id.
            segmenter: see `grounding.segmenters.load.load_segmenter`; None for no masks.
            method: a shipped method's name, a YAML file, or `auto`; see `grounding.sources.method_for`.
            device: `auto`, `cpu`, `cuda`, `cuda:1` or `mps`.
            dtype: `auto`, `float32`, `bfloat16` or `float16`.
            device_map: spreads the model over devices through accelerate; `device` then applies to the segmenter only.
            family: of the model, where not its own; see `grounding.models.load.load`.
            steer: a steering method's name or YAML file.
            decoding: how texts are generated.
            threshold: support below which a noun is not supported, in [0, 1]; the model's own where None.
            nouns: how nouns are found: `rules` or `spacy`; see `grounding.text.parse.noun_finder`.

        Raises:
            GroundingError: something of this is unknown, missing or too large; see the loaders.
        """
        from grounding.models.load import load
        from grounding.segmenters.load import load_segmenter
        from grounding.text.parse import noun_finder

        # Cheap parts first, so that a misspelt name is refused before a model is loaded.
        chosen, finder = method_for(model, method), noun_finder(nouns)
        steering = None if steer is None else load_steering(steer)
        vlm = load(model, device, dtype, device_map, finder, family)
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
            question: the question; the model's `default_question` where None.
            stream: makes a streamer for each text; not with beam search.

        Returns:
            One description, or a list in the order of the pictures.

        Raises:
            ImageError: a picture is missing, broken, too small or too large.
            ExpressionError: a question has words outside a closed vocabulary, among others.
            MethodError: the steering method does not fit the model or the way of decoding.
            ModelError: out of memory, among others.
        """
        if is_picture(images) or not isinstance(images, list | tuple):
            return self._describe(to_image(images), question, stream)
        return [self._describe(to_image(image), question, stream) for image in images]

    def check(self, image: Picture, text: str, question: str | None = None) -> Caption:
        """Measure the support of the nouns of a given text.

        Args:
            image: the picture or its path.
            text: the text.
            question: the question that the text answers; the model's `default_question` where None.

        Raises:
            ExpressionError: text or question has words outside a closed vocabulary.
        """
        from grounding.models.teacher_forcing import tokens_of

        picture = to_image(image)
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
        notes = picture_notes(image, prepared.layouts[0].grids)
        return Description(image, asked, captions[UNSTEERED], captions.get(STEERED), name, self.decoding.seed, notes)

    def _generate(
        self, image: Image.Image, question: str, steering: Steering | None, streamer: Any
    ) -> tuple[Generated, float]:
        from grounding.steering.generate import generate

        started = time.perf_counter()
        generated = generate(self.vlm, [image], [question], steering, self.decoding, streamer)[0]
        return generated, time.perf_counter() - started

    def _warm_up(self, image: Image.Image, question: str) -> None:
        """Generate one short text and discard it, to keep first-call costs out of the unsteered text's time."""
        from grounding.steering.generate import generate

        if not self._warm:
            generate(self.vlm, [image], [question], decoding=replace(self.decoding, max_new_tokens=2))
        self._warm = True

    def _caption(self, image: Image.Image, prepared: Prepared, generated: Generated, seconds: float | None) -> Caption:
        from grounding.models.teacher_forcing import teacher_forced_maps

        # Visual support leaves sinks out, and needs the rows of single layers, which a flow replaces.
        spec = replace(self.spec, layers=None, flow=None, attention="softmax", residual_sinks=True)
        text = teacher_forced_maps(self.vlm, prepared, [generated.token_ids], spec)[0]
        maps = text.maps
        if self._apart:
            maps = teacher_forced_maps(self.vlm, prepared, [generated.token_ids], self.spec)[0].maps
        nouns = tuple(self._nouns(image, text, maps))
        count = len(generated.token_ids)
        return Caption(text.text, nouns, generated.finished, generated.repeated, count, seconds, self.threshold)

    def _nouns(self, image: Image.Image, text: TextMaps, phrase_maps: Sequence[AttentionMaps]) -> Iterator[NounSupport]:
        if text.reference_words is None:
            return
        background = self._background(image)
        encoded = False
        measured = supports(text.maps, text.reference_words)
        for phrase, maps, support in zip(text.phrases, phrase_maps, measured, strict=True):
            heatmap = run_stages(self.method, replace(maps, background=background))
            points = self.method.points(heatmap) if heatmap.values.any() else None
            segment = None
            if self.segmenter is not None and points is not None:
                if not encoded:
                    self.segmenter.set_image(image)
                    encoded = True
                segment = self._segment(self.segmenter, heatmap, points, phrase)
                support = replace(support, agreement=max(0.0, segment.agreement or 0.0))
            supported = None if self.threshold is None else points is not None and support.value >= self.threshold
            yield NounSupport(phrase.text, phrase.noun.text, phrase.span, heatmap, points, segment, support, supported)

    def _segment(self, segmenter: Segmenter, heatmap: Heatmap, points: PointPrompts, phrase: NounPhrase) -> Segment:
        from grounding.segmenters.mask_selection import predict_mask

        return predict_mask(segmenter, points, heatmap, self.method.mask, phrase.text)

    def _background(self, image: Image.Image) -> AttentionMaps | None:
        """The maps under the method's generic prompt, if it has one."""
        return None if self.spec.background_prompt is None else self._backgrounds.of([image], self.spec)[0]
