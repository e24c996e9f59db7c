"""Masks of referring expressions: recorded attention maps, point prompts, a segmenter."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, overload

from PIL import Image

from grounding.methods import Method, run_stages
from grounding.pictures import Picture, is_picture, to_image
from grounding.record_spec import RecordSpec
from grounding.source import Backgrounds, MapSource, fingerprint, maps_and_backgrounds
from grounding.sources import load_source, method_for
from grounding.text.quotes import plain_quotes
from grounding.types import AttentionMaps, Heatmap, PointPrompts, Word, WordKind
from pipelines.choosing import Asked, Chooser, ChosenAnswer, load_concepts, with_candidates
from pipelines.results import ReferringResult, Timings, picture_notes

if TYPE_CHECKING:
    import torch

    from grounding.candidates.rule import Kind
    from grounding.explanation import Explanation
    from grounding.map_trace import MapTrace
    from grounding.segmenters.base import Segmenter
    from grounding.segmenters.sam3_concept import Sam3Concepts

Pair = tuple[Picture, str]
T = TypeVar("T")
Several = list[T] | tuple[T, ...]

DEFAULT_MODEL = "starter-photo"
DEFAULT_SEGMENTER = "mobile-sam"
DEFAULT_BATCH = 4


class ReferringSegmentation:
    """Segment referring expressions from attention maps.

    >>> pipe = ReferringSegmentation.from_pretrained("starter", "mobile-sam")
    >>> result = pipe(image, "the small red star")  # doctest: +SKIP
    >>> results = pipe([(image, "the red star"), (image, "the blue square")])  # doctest: +SKIP

    The object keeps the last image that its segmenter encoded and is not thread-safe.

    Args:
        source: records attention maps; a `grounding.models.base.VLM` or a `grounding.diffusion.base.DiffusionSource`,
            for instance.
        segmenter: turns point prompts into masks.
        method: stages, point rule and mask choice.
        batch_size: most pairs in one forward pass.
        explain: keep the map after every stage, every word's own map and all candidates, as
            `ReferringResult.explanation`.
        concepts: SAM 3's detector, which a method needs whose candidates are SAM 3's instances.
    """

    def __init__(
        self,
        source: MapSource,
        segmenter: Segmenter,
        method: Method,
        batch_size: int = DEFAULT_BATCH,
        *,
        explain: bool = False,
        concepts: Sam3Concepts | None = None,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.source = source
        self.segmenter = segmenter
        self.method = method
        self.batch_size = batch_size
        self.explain = explain
        self.concepts = concepts
        self.spec = method.record_spec(source.layer_count)
        self._encoded: bytes | None = None
        self._backgrounds = Backgrounds(source)
        self._chooser = Chooser(segmenter, concepts, self.encode)

    @classmethod
    def from_pretrained(
        cls,
        model: str = DEFAULT_MODEL,
        segmenter: str = DEFAULT_SEGMENTER,
        method: str | Path = "auto",
        device: str | torch.device = "auto",
        dtype: str | torch.dtype = "auto",
        *,
        device_map: str | dict[str, Any] | None = None,
        family: str | None = None,
        batch_size: int = DEFAULT_BATCH,
        nouns: str = "rules",
        explain: bool = False,
        candidates: Kind | None = None,
        least_confidence: float | None = None,
        verify: bool | None = None,
    ) -> ReferringSegmentation:
        """Load model, segmenter and method by name.

        Args:
            model: `starter-photo`, `starter`, `starter-dit`, a folder written by `save_pretrained`, or a hub id; of a
                vision-language model or of a diffusers pipeline. Several, joined by `+`, are an ensemble.
            segmenter: see `grounding.segmenters.load.load_segmenter`.
            method: a shipped method's name, a YAML file, or `auto`; see `grounding.sources.method_for`.
            device: `auto`, `cpu`, `cuda`, `cuda:1` or `mps`.
            dtype: `auto`, `float32`, `bfloat16` or `float16`, for the model and the segmenter's image encoder.
            device_map: spreads the model over devices through accelerate; `device` then applies to the segmenter only.
            family: of the model, where not its own; see `grounding.models.load.load`.
            batch_size: most pairs in one forward pass.
            nouns: how head nouns are found: `rules` or `spacy`; see `grounding.text.parse.noun_finder`.
            explain: see the class.
            candidates: who proposes masks: `points`, `auto`, `sam3` or `boxes`; see `CandidateRule`. The method's own
                where None.
            least_confidence: an answer of a lower confidence is none; the method's own where None.
            verify: show the chosen region to the model again and ask; as the method says where None.

        Raises:
            GroundingError: something of this is unknown, missing or too large; see the loaders.
        """
        from grounding.segmenters.load import load_segmenter
        from grounding.text.parse import noun_finder

        # Cheap parts first, so that a misspelt name is refused before a model is loaded.
        chosen, finder = (
            with_candidates(method_for(model, method), candidates, least_confidence, verify),
            noun_finder(nouns),
        )
        source = load_source(model, device, dtype, device_map, finder, chosen, family)
        proposer = load_concepts(chosen, device, dtype)
        asked = load_segmenter(segmenter, device, dtype)
        return cls(source, asked, chosen, batch_size, explain=explain, concepts=proposer)

    @overload
    def __call__(self, image: Picture, expression: str) -> ReferringResult: ...

    @overload
    def __call__(self, image: Picture, expression: Several[str]) -> list[ReferringResult]: ...

    @overload
    def __call__(self, image: Several[Picture], expression: str) -> list[ReferringResult]: ...

    @overload
    def __call__(self, image: Several[Pair]) -> list[ReferringResult]: ...

    def __call__(
        self,
        image: Picture | Several[Picture] | Several[Pair],
        expression: str | Several[str] | None = None,
    ) -> ReferringResult | list[ReferringResult]:
        """Segment expressions.

        Pairs of the same picture share one run of the segmenter's image encoder and one of the generic prompt,
        whatever their order.

        Args:
            image: a picture in any of the forms of `grounding.pictures.to_image`, together with an expression or
                several; or several pictures with one expression; or a sequence of pairs (picture, expression) alone.
            expression: the words, or a list of such.

        Returns:
            One result for one picture and one expression; else a list, in the order of what was given.

        Raises:
            ImageError: a picture is missing, broken, too small or too large, or of another form.
            ExpressionError: the source cannot use an expression.
            ModelError: out of memory, among others; see `grounding.models`.
            EmptyMapError: the map is empty after the method's stages.
            MethodError: the method does not fit the model.
            TypeError: pictures and expressions are given in another way.
        """
        results = self._run(_pairs(image, expression))
        return results[0] if is_picture(image) and isinstance(expression, str) else results

    def record_maps(
        self, pairs: Sequence[tuple[Image.Image, str]], spec: RecordSpec | None = None, method: Method | None = None
    ) -> list[AttentionMaps]:
        """Record the maps of one batch.

        Args:
            pairs: (RGB picture, expression).
            spec: what to record; what the method needs where None. An evaluation that compares methods gives the union
                of their specs.
            method: whose prompt is put to the model; the pipeline's own where None.

        Returns:
            The maps of the expressions' words, with the spec's background, if any, as `background`.
        """
        spec = spec or self.spec
        images = [image for image, _ in pairs]
        expressions = [plain_quotes(expression) for _, expression in pairs]
        prompt = (method or self.method).prompt
        return maps_and_backgrounds(self.source, images, expressions, spec, prompt, self._backgrounds)

    def record_backgrounds(
        self, pairs: Sequence[tuple[Image.Image, str]], spec: RecordSpec, method: Method | None = None
    ) -> list[AttentionMaps]:
        """Record the backgrounds of one batch alone; see `record_maps`.

        Args:
            pairs: (RGB picture, expression).
            spec: what to record, with a background.
            method: whose prompt is put to the model; the pipeline's own where None.
        """
        expressions = [plain_quotes(expression) for _, expression in pairs]
        prompt = (method or self.method).prompt
        return self._backgrounds.of([image for image, _ in pairs], spec, expressions, prompt)

    def encode(self, image: Image.Image) -> None:
        """Encode a picture with the segmenter, unless it is the last one encoded."""
        key = fingerprint(image)
        if key == self._encoded:
            return
        self._encoded = None  # an encoder that fails leaves the segmenter without an image
        self.segmenter.set_image(image)
        self._encoded = key

    def ask(
        self,
        image: Image.Image,
        expression: str,
        recorded: AttentionMaps,
        heatmap: Heatmap,
        points: PointPrompts,
        method: Method | None = None,
    ) -> ChosenAnswer:
        """Choose the mask of an expression whose map and points are known.

        Args:
            image: RGB; encoded unless it is the last one that was.
            expression: the words.
            recorded: their maps.
            heatmap: what the method's stages made of them.
            points: what its point rule made of that.
            method: the pipeline's own where None.
        """
        asked = Asked(image, expression, _own_words(recorded), heatmap, points)
        return self._chooser.answer(asked, method or self.method, self.source)

    def _run(self, pairs: list[Pair]) -> list[ReferringResult]:
        opened = _open(pairs)
        order = _by_picture([image for image, _ in opened])
        results: dict[int, ReferringResult] = {}
        for start in range(0, len(order), self.batch_size):
            chunk = order[start : start + self.batch_size]
            results.update(zip(chunk, self._batch([opened[index] for index in chunk]), strict=True))
        return [results[index] for index in range(len(pairs))]

    def _batch(self, pairs: list[tuple[Image.Image, str]]) -> list[ReferringResult]:
        started = time.perf_counter()
        maps = self.record_maps(pairs)
        attention = (time.perf_counter() - started) / len(pairs)
        return [
            self._result(image, expression, recorded, attention)
            for (image, expression), recorded in zip(pairs, maps, strict=True)
        ]

    def _result(
        self, image: Image.Image, expression: str, recorded: AttentionMaps, attention: float
    ) -> ReferringResult:
        """From one pair's recorded maps to its mask; `attention` is the seconds that the recording took."""
        marks = [time.perf_counter()]
        trace = self._trace(recorded)
        heatmap = run_stages(self.method, recorded) if trace is None else trace.map
        points = self.method.points(heatmap)
        marks.append(time.perf_counter())
        self._chooser.prepare(image, self.method)
        marks.append(time.perf_counter())
        answer = self.ask(image, expression, recorded, heatmap, points)
        marks.append(time.perf_counter())
        stages, encode, mask = (after - before for before, after in itertools.pairwise(marks))
        explanation = None if trace is None else self._explanation(expression, trace, points, answer)
        return ReferringResult(
            image,
            expression,
            () if answer.segment is None else (answer.segment,),
            heatmap,
            points,
            Timings(attention, stages, encode, mask),
            (*picture_notes(image, recorded.grids), *answer.notes),
            explanation,
            answer.ranking[: self.method.candidates.shown],
            answer.confidence,
            None if answer.verified is None else answer.verified.shares,
        )

    def _trace(self, recorded: AttentionMaps) -> MapTrace | None:
        if not self.explain:
            return None
        from grounding.map_trace import trace_map

        return trace_map(self.method, recorded)

    def _explanation(self, expression: str, trace: MapTrace, points: PointPrompts, answer: ChosenAnswer) -> Explanation:
        from grounding.explanation import Explanation, choice_in_words, trace_candidates, trace_ranking

        method, taken = self.method, answer.segment is not None
        return Explanation(
            expression=plain_quotes(expression),
            source=self.source.name,
            method=method.name,
            trace=trace,
            points=points,
            rule=choice_in_words(method.candidates, method.mask),
            candidates=trace_candidates(answer.predicted, trace.map, method.mask, chosen=taken)
            if answer.predicted is not None
            else trace_ranking(answer.ranking[: method.candidates.shown], chosen=taken),
            confidence=answer.confidence,
        )


def _pairs(image: Any, expression: Any) -> list[Pair]:
    """The pairs of a call that has several pictures or several expressions.

    Raises:
        TypeError: there are none in what was given.
    """
    ways = "call pipe(picture, expression), pipe(picture, [expression, ...]), or pipe([(picture, expression), ...])"
    if is_picture(image):
        expression = (expression,) if isinstance(expression, str) else expression
        if not isinstance(expression, list | tuple) or not all(isinstance(one, str) for one in expression):
            shown = "none" if expression is None else repr(expression)[:60]
            raise TypeError(f"a picture needs an expression, and {shown} was given: {ways}")
        return [(image, one) for one in expression]
    if not isinstance(image, Sequence):
        to_image(image)  # says what a picture is
    if isinstance(expression, str) and all(map(is_picture, image)):
        return [(one, expression) for one in image]
    if expression is not None:
        raise TypeError(f"several pictures go with one expression, or with one each, in pairs: {ways}")
    for number, pair in enumerate(image):
        if not (isinstance(pair, list | tuple) and len(pair) == 2 and isinstance(pair[1], str)):
            raise TypeError(f"element {number} is {type(pair).__name__}, expected a pair (picture, expression): {ways}")
    return [(picture, words) for picture, words in image]


def _open(pairs: Sequence[Pair]) -> list[tuple[Image.Image, str]]:
    """Open every picture once, as upright RGB."""
    seen: dict[object, Image.Image] = {}
    opened = []
    for picture, expression in pairs:
        key: object = str(picture) if isinstance(picture, str | Path) else id(picture)
        if key not in seen:
            seen[key] = to_image(picture)
        opened.append((seen[key], expression))
    return opened


def _by_picture(images: Sequence[Image.Image]) -> list[int]:
    """Indices with equal pictures adjacent, in the order in which each picture first appears."""
    first: dict[bytes, int] = {}
    known: dict[int, bytes] = {}
    for image in images:
        key = known.setdefault(id(image), fingerprint(image))
        first.setdefault(key, len(first))
    return sorted(range(len(images)), key=lambda index: first[known[id(images[index])]])


def _own_words(recorded: AttentionMaps) -> tuple[Word, ...]:
    """The expression's own words, in order; without special tokens and magnets."""
    own = (word for word in recorded.words if word.kind not in (WordKind.SPECIAL, WordKind.MAGNET))
    return tuple(sorted(own, key=lambda word: word.span))
