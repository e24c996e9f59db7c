"""Everything that a model names in a picture, segmented: no words and no categories are given."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, overload

import numpy as np
from PIL import Image

from grounding.errors import EmptyMapError, GroundingError, MethodError, UsageError
from grounding.files import user_path
from grounding.methods import Method
from grounding.pictures import Picture, is_picture, to_image
from grounding.segmenters.instance_suppression import suppress_segments
from grounding.segmenters.mask_selection import agreement
from grounding.segmenters.peeling import attention_inside, peel
from grounding.steering.decoding import Decoding
from grounding.text.categories import CategoryFinder, read_vocabulary
from grounding.text.names import ObjectName
from grounding.types import Heatmap, Segment
from pipelines.listing import Listed, ObjectLister, Row
from pipelines.open_ended_result import Instance, ListingAnswer, ModelRuns, NamedMap, OpenEndedResult
from pipelines.open_ended_settings import DiscoverySettings
from pipelines.referring import DEFAULT_BATCH, DEFAULT_MODEL, DEFAULT_SEGMENTER, method_for
from pipelines.results import Timings, picture_notes
from pipelines.views import View

if TYPE_CHECKING:
    import torch

    from grounding.models.base import VLM
    from grounding.segmenters.base import Segmenter
    from grounding.steering.method import Steering

Pictures = list[Picture] | tuple[Picture, ...]
T = TypeVar("T")

DEFAULT_DECODING = Decoding(max_new_tokens=256, stop_at_repeats=True)
"""Greedy, and ended where the answer repeats itself. VL-SAM samples at temperature 0.8 with top_p 0.1."""


class OpenEndedSegmentation:
    """List the objects of pictures with a vision-language model, and segment each of them.

    The model lists objects; the names in its answer are read; each gets a map of the model's own attention, a point on
    the object and one off it, and a mask that is refined and taken off the map until nothing new is found; what
    overlaps is suppressed. This is VL-SAM (Lin, Wang, Tang, NeurIPS 2024, arXiv 2410.05963) with the method, which
    makes maps, as a parameter.

    >>> pipe = OpenEndedSegmentation.from_pretrained("starter")  # doctest: +SKIP
    >>> [(one.name, one.score) for one in pipe("scene.png").instances]  # doctest: +SKIP

    Args:
        vlm: the vision-language model.
        segmenter: turns points into masks.
        method: stages, point rule and mask rule.
        settings: see `DiscoverySettings`.
        decoding: how answers are generated.
        steering: a steering method for the answers; maps are the unsteered model's.
        categories: maps names to a list of categories; None keeps the names.
        batch_size: most prompts in one pass; the questions about a picture share a batch, and the key-value cache of
            what they have in common where the model allows that.

    Raises:
        MethodError: several samples of a greedy answer, or the steering does not fit the model or the decoding.
    """

    def __init__(
        self,
        vlm: VLM,
        segmenter: Segmenter,
        method: Method,
        settings: DiscoverySettings | None = None,
        decoding: Decoding = DEFAULT_DECODING,
        steering: Steering | None = None,
        categories: CategoryFinder | None = None,
        batch_size: int = DEFAULT_BATCH,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.vlm = vlm
        self.segmenter = segmenter
        self.method = method
        self.settings = settings or DiscoverySettings()
        self.decoding = decoding
        self.steering = steering
        self.categories = categories
        self.batch_size = batch_size
        if self.settings.answers > 1 and not decoding.do_sample:
            raise MethodError(
                f"{self.settings.answers} answers to a question were asked for; without sampling all are equal: "
                "decode with do_sample (--sample)"
            )
        if steering is not None:
            from grounding.steering.generate import check_steering

            check_steering(steering, vlm, decoding)
        self._points = self.settings.point_rule(method)
        self._mask = replace(method.mask, cascade=self.settings.cascade)
        self._lister = ObjectLister(vlm, method, self.settings, decoding, steering, batch_size)

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
        settings: DiscoverySettings | None = None,
        decoding: Decoding = DEFAULT_DECODING,
        steer: str | Path | None = None,
        vocabulary: str | Path | None = None,
        embedder: str | None = None,
        batch_size: int = DEFAULT_BATCH,
        nouns: str = "rules",
    ) -> OpenEndedSegmentation:
        """Load model, segmenter, method and steering by name.

        Args:
            model: `starter`, `starter-photo`, a folder written by `save_pretrained`, or a hub id.
            segmenter: see `grounding.segmenters.load.load_segmenter`.
            method: a shipped method's name, a YAML file, or `auto`; see `pipelines.referring.method_for`.
            device: `auto`, `cpu`, `cuda`, `cuda:1` or `mps`.
            dtype: `auto`, `float32`, `bfloat16` or `float16`.
            device_map: spreads the model over devices through accelerate; `device` then applies to the segmenter only.
            family: of the model, where not its own; see `grounding.models.load.load`.
            settings: see the class.
            decoding: see the class.
            steer: a steering method's name or YAML file.
            vocabulary: a file of categories; see `grounding.text.categories.read_vocabulary`.
            embedder: text embedding model for names that are no category's word: a hub id or folder.
            batch_size: see the class.
            nouns: how nouns are found: `rules` or `spacy`; see `grounding.text.parse.noun_finder`.

        Raises:
            GroundingError: something of this is unknown, missing or too large; see the loaders.
        """
        from grounding.models.load import load
        from grounding.segmenters.load import load_segmenter
        from grounding.steering.method import load_steering
        from grounding.text.embedding import TextEmbedding
        from grounding.text.parse import noun_finder

        # Cheap parts first, so that a misspelt name is refused before a model is loaded.
        chosen, finder = method_for(model, method), noun_finder(nouns)
        steering = None if steer is None else load_steering(steer)
        categories = None if vocabulary is None else CategoryFinder(read_vocabulary(user_path(vocabulary)))
        if embedder is not None and categories is None:
            raise UsageError(f"the embedding model {embedder!r} was given without a vocabulary: give a category list")
        vlm = load(model, device, dtype, device_map, finder, family)
        if embedder is not None and categories is not None:
            categories = replace(categories, embed=TextEmbedding.from_pretrained(embedder))
        masks = load_segmenter(segmenter, device, dtype)
        return cls(vlm, masks, chosen, settings, decoding, steering, categories, batch_size)

    @overload
    def __call__(self, images: Picture) -> OpenEndedResult: ...

    @overload
    def __call__(self, images: Pictures) -> list[OpenEndedResult]: ...

    def __call__(self, images: Picture | Pictures) -> OpenEndedResult | list[OpenEndedResult]:
        """Segment everything that the model names.

        Args:
            images: a picture in any of the forms of `grounding.pictures.to_image`, or a list of them.

        Returns:
            One result, or a list in the order of the pictures. A picture in which nothing is named has no instances.

        Raises:
            ImageError: a picture is missing, broken, too small or too large.
            ExpressionError: a question has words outside a closed vocabulary.
            ModelError: out of memory, among others.
            MethodError: the method does not fit the model.
        """
        if is_picture(images) or not isinstance(images, list | tuple):
            return self._run([to_image(images)])[0]
        return self._run([to_image(image) for image in images])

    def _run(self, images: Sequence[Image.Image]) -> list[OpenEndedResult]:
        started = time.perf_counter()
        listed = self._lister(images)
        seconds = (time.perf_counter() - started) / max(1, len(images))
        return [self._result(one, seconds) for one in listed]

    def _result(self, found: Listed, model: float) -> OpenEndedResult:
        started, encode, encoded, asked = time.perf_counter(), 0.0, 0, 0
        maps: list[NamedMap] = []
        instances: list[Instance] = []
        for number, view in enumerate(found.views):
            of_view = [one for one in found.maps if one[0].view == number]
            if any(isinstance(heatmap, Heatmap) for *_, heatmap in of_view):
                before = time.perf_counter()
                self.segmenter.set_image(view.image)
                encode, encoded = encode + time.perf_counter() - before, encoded + 1
            for row, name, heatmap in of_view:
                named, mine, prompts = self._segmented(view, row, name, heatmap)
                maps.append(named)
                instances += mine
                asked += prompts
        kept = self._suppressed(self._in_categories(instances, maps))
        seconds = time.perf_counter() - started
        answers = tuple(
            ListingAnswer(
                row.view,
                row.question,
                row.asked,
                row.answer.text,
                row.answer.finished,
                row.answer.repeated,
                tuple(name.words for name in row.names),
                row.dropped,
                len(row.answer.token_ids),
            )
            for row in found.rows
            if row.answer is not None
        )
        runs = ModelRuns(len(found.rows) + found.written, found.passes + len(found.behind), encoded, asked)
        return OpenEndedResult(
            found.image,
            kept,
            answers,
            tuple(maps),
            runs,
            Timings(model, 0.0, encode, seconds - encode),
            (*picture_notes(found.image, found.grids), *found.notes),
            self.categories is not None,
        )

    def _segmented(
        self, view: View, row: Row, name: ObjectName, heatmap: Heatmap | GroundingError
    ) -> tuple[NamedMap, list[Instance], int]:
        """The masks of one map, in the picture's frame, and how many prompts they took."""
        if isinstance(heatmap, GroundingError):
            return NamedMap(name, row.view, row.question, None, (), str(heatmap)), [], 0
        whole = view.map_in_picture(heatmap)
        try:
            peeled = peel(self.segmenter, heatmap, self._points, self._mask, self.settings.peeling, name.words)
        except EmptyMapError as wrong:
            return NamedMap(name, row.view, row.question, whole, (), str(wrong)), [], 0
        segments = peeled.segments
        if name.stuff and self.settings.stuff == "one":
            segments = self._joined(segments, heatmap)
        instances = [
            Instance(
                name.name,
                name.words,
                self._score(segment, heatmap),
                view.in_picture(segment),
                view=row.view,
                question=row.question,
                round=number,
            )
            for number, segment in enumerate(segments)
        ]
        reason = "" if segments else "the segmenter's mask is empty"
        masks = tuple(one.segment for one in instances)
        return NamedMap(name, row.view, row.question, whole, masks, reason), instances, peeled.asked

    def _joined(self, segments: tuple[Segment, ...], heatmap: Heatmap) -> tuple[Segment, ...]:
        """The union of a map's masks as one segment, with the first one's points and the lowest estimate."""
        if len(segments) < 2:
            return segments
        mask = np.logical_or.reduce([one.mask for one in segments])
        fit = agreement(mask, heatmap, self._mask.measure)
        return (replace(segments[0], mask=mask, score=min(one.score for one in segments), agreement=fit),)

    def _score(self, segment: Segment, heatmap: Heatmap) -> float:
        estimate = min(1.0, max(0.0, segment.score))
        if self.settings.rank == "attention":
            return estimate * attention_inside(segment.mask, heatmap)
        return estimate * (max(0.0, segment.agreement or 0.0) if self.settings.rank == "agreement" else 1.0)

    def _in_categories(self, instances: Sequence[Instance], maps: Sequence[NamedMap]) -> list[Instance]:
        """The instances under the names of their categories; one of several categories is there several times."""
        if self.categories is None:
            return list(instances)
        names = {one.name.words: one.name for one in maps}
        matches = dict(zip(names, self.categories(list(names.values())), strict=True))
        return [
            replace(one, name=match.category.name, category_id=match.category.id, score=one.score * match.weight)
            for one in instances
            for match in matches[one.words]
        ] + [one for one in instances if not matches[one.words]]

    def _suppressed(self, instances: Sequence[Instance]) -> tuple[Instance, ...]:
        # One mask may be there under several likely categories, which are no rivals of each other.
        settings = self.settings
        several = self.categories is not None and self.categories.top > 1
        labels = [one.name for one in instances] if settings.overlap_by == "name" or several else None
        kept = suppress_segments(
            [one.segment for one in instances],
            [one.score for one in instances],
            settings.overlap,
            settings.overlap_of,
            labels,
        )
        return tuple(instances[index] for index in kept)
