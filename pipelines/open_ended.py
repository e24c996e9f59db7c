"""Everything that a model names in a picture, segmented: no words and no categories are given."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, overload

from PIL import Image

from grounding.errors import EmptyMapError, ExpressionError, GroundingError, MethodError, UsageError
from grounding.files import user_path
from grounding.layout import ImageGrid
from grounding.methods import Method, run_stages
from grounding.pictures import Picture, is_picture, to_image
from grounding.runs.attempts import attempt, cut
from grounding.segmenters.instance_suppression import suppress_segments
from grounding.segmenters.peeling import attention_inside, peel
from grounding.source import Backgrounds
from grounding.steering.decoding import Decoding, Generated
from grounding.text.categories import CategoryFinder, read_vocabulary
from grounding.text.names import ObjectName, listed_phrases, object_names
from grounding.types import AttentionMaps, Heatmap, Segment
from pipelines.open_ended_result import Instance, ListingAnswer, ModelRuns, NamedMap, OpenEndedResult
from pipelines.open_ended_settings import WRITE_QUESTIONS, DiscoverySettings, written_questions
from pipelines.referring import DEFAULT_BATCH, DEFAULT_MODEL, DEFAULT_SEGMENTER, method_for
from pipelines.results import Timings, picture_notes
from pipelines.views import View, views_of

if TYPE_CHECKING:
    import torch

    from grounding.models.base import VLM
    from grounding.segmenters.base import Segmenter
    from grounding.steering.method import Steering

Pictures = list[Picture] | tuple[Picture, ...]
T = TypeVar("T")

DEFAULT_DECODING = Decoding(max_new_tokens=256, stop_at_repeats=True)
"""Greedy, and ended where the answer repeats itself. VL-SAM samples at temperature 0.8 with top_p 0.1."""


@dataclass
class _Row:
    """One question about one view, its answer, and the names in it."""

    picture: int
    view: int
    question: int
    image: Image.Image
    asked: str
    answer: Generated | None = None
    names: tuple[ObjectName, ...] = ()
    dropped: int = 0


@dataclass
class _Found:
    """What is known of one picture."""

    image: Image.Image
    views: tuple[View, ...]
    written: bool = False
    notes: list[str] = field(default_factory=list)
    passes: int = 0
    grids: tuple[ImageGrid, ...] = ()
    maps: list[tuple[_Row, ObjectName, Heatmap | GroundingError]] = field(default_factory=list)


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
        if self.settings.samples > 1 and not decoding.do_sample:
            raise MethodError(
                f"{self.settings.samples} samples of an answer were asked for, and without sampling all would be equal: "
                "decode with do_sample (--sample)"
            )
        if steering is not None:
            from grounding.steering.generate import check_steering

            check_steering(steering, vlm, decoding)
        self.spec = method.record_spec(vlm.layer_count)
        self._backgrounds = Backgrounds(vlm)
        self._points = self.settings.point_rule(method)
        self._mask = replace(method.mask, cascade=self.settings.cascade)
        self._unshared: str | None = None if steering is None else "steering edits every pass"
        self._tried = steering is not None

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
        vlm = load(model, device, dtype, device_map, finder)
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
        found = [_Found(image, views_of(image, self.settings.multi_scale)) for image in images]
        rows = self._rows(found)
        self._answer(rows, found)
        if self.settings.maps == "answer":
            self._maps_of_answers(rows, found)
        else:
            self._maps_of_questions(rows, found)
        model = (time.perf_counter() - started) / max(1, len(images))
        return [
            self._result(one, [row for row in rows if row.picture == number], model) for number, one in enumerate(found)
        ]

    def _rows(self, found: Sequence[_Found]) -> list[_Row]:
        """Every question about every view of every picture."""
        fixed = self.settings.questions(self.vlm.own_words)
        asked = [fixed] * len(found)
        if self.settings.ensemble == "written":
            wrote = self._generate([one.image for one in found], [WRITE_QUESTIONS] * len(found))
            asked = []
            for one, answer in zip(found, wrote, strict=True):
                one.written = True
                own = written_questions(answer.text)
                if not own:
                    one.notes.append("the model wrote no question of its own, so it was asked the usual one")
                asked.append(own or fixed)
        return [
            _Row(picture, number, index, view.image, question)
            for picture, (one, questions) in enumerate(zip(found, asked, strict=True))
            for number, view in enumerate(one.views)
            for index, question in enumerate(questions)
            for _ in range(self.settings.samples)
        ]

    def _answer(self, rows: Sequence[_Row], found: Sequence[_Found]) -> None:
        """Generate the answers, and read their names."""
        answers = self._generate([row.image for row in rows], [row.asked for row in rows])
        for row, answer in zip(rows, answers, strict=True):
            row.answer = answer
            phrases = listed_phrases(answer.text, self.vlm.finder)
            every = object_names(phrases, self.settings.merge, self.settings.stuff)
            row.names = every[: self.settings.max_names]
            row.dropped = len(every) - len(row.names)
        for number, one in enumerate(found):
            own = [row for row in rows if row.picture == number]
            if not any(row.names for row in own):
                one.notes.append("the model named no object")
            dropped = sum(row.dropped for row in own)
            if dropped:
                one.notes.append(f"{dropped} names beyond {self.settings.max_names} of an answer were not looked for")
            if self._unshared is not None and len(own) > len(one.views):
                one.notes.append(f"the questions' common beginning was run for each of them: {self._unshared}")

    def _generate(self, images: Sequence[Image.Image], questions: Sequence[str]) -> list[Generated]:
        """Answer questions in batches; those of one picture stand side by side and share its cache."""
        from grounding.steering.generate import generate

        answers: list[Generated] = []
        pairs = list(zip(images, questions, strict=True))
        for number, batch in enumerate(cut(pairs, self.batch_size)):
            pictures, asked = [image for image, _ in batch], [question for _, question in batch]
            answers += generate(
                self.vlm,
                pictures,
                asked,
                self.steering,
                replace(self.decoding, seed=self.decoding.seed + number),
                share_prefix=self._shares(pictures, asked),
            )
        return answers

    def _shares(self, images: Sequence[Image.Image], questions: Sequence[str]) -> bool:
        """Whether a batch has several prompts of one picture, and the model can share their beginning."""
        if len({id(image) for image in images}) == len(images):
            return False
        different = tuple(dict.fromkeys(questions))
        if not self._tried and len(different) > 1:
            from grounding.models.shared_prefix import why_not_shared

            self._unshared, self._tried = why_not_shared(self.vlm, images[0], different), True
        return self._tried and self._unshared is None

    def _maps_of_answers(self, rows: Sequence[_Row], found: Sequence[_Found]) -> None:
        """Read the maps of names where the model wrote them, by teacher forcing, one pass per answer."""
        from grounding.models.teacher_forcing import teacher_forced_maps

        named = [row for row in rows if row.names]
        for batch in cut(named, self.batch_size):
            prepared = self.vlm.prepare_questions([row.image for row in batch], [row.asked for row in batch])
            tokens = [row.answer.token_ids for row in batch if row.answer is not None]
            wanted = {row.answer.text: row.names for row in batch if row.answer is not None}

            def chosen(text: str, wanted: dict[str, tuple[ObjectName, ...]] = wanted) -> list[Any]:
                return [name.phrase for name in wanted[text]]

            texts = teacher_forced_maps(self.vlm, prepared, tokens, self.spec, chosen)
            behind = self._behind(batch, found)
            for row, text, background in zip(batch, texts, behind, strict=True):
                found[row.picture].passes += 1
                of_span = {
                    phrase.span: maps for phrase, maps in zip(text.phrases, text.maps, strict=True)
                }  # a noun without a token of its own has none
                for name in row.names:
                    maps = of_span.get(name.phrase.span)
                    map_or_error: Heatmap | GroundingError = ExpressionError(
                        f"the tokenizer gives {name.words!r} no token of its own"
                    )
                    if maps is not None:
                        map_or_error = self._heatmap(row, replace(maps, background=background), found)
                    found[row.picture].maps.append((row, name, map_or_error))

    def _maps_of_questions(self, rows: Sequence[_Row], found: Sequence[_Found]) -> None:
        """Ask for each name of a view with the method's prompt; a name of several answers is asked for once."""
        asked: dict[tuple[int, int, object], tuple[_Row, ObjectName]] = {}
        for row in rows:
            for name in row.names:
                key = name.name if self.settings.merge == "names" else name.words
                asked.setdefault((row.picture, row.view, key), (row, name))
        plain = replace(self.spec, background_prompt=None)

        def record(batch: Sequence[tuple[_Row, ObjectName]]) -> list[AttentionMaps]:
            images, words = [row.image for row, _ in batch], [name.words for _, name in batch]
            return self.vlm.maps(images, words, plain, self.method.prompt)

        for batch in cut(list(asked.values()), self.batch_size):
            recorded = attempt(batch, record)
            behind = self._behind([row for row, _ in batch], found)
            for (row, name), maps, background in zip(batch, recorded, behind, strict=True):
                found[row.picture].passes += 1
                map_or_error = (
                    maps
                    if isinstance(maps, GroundingError)
                    else self._heatmap(row, replace(maps, background=background), found)
                )
                found[row.picture].maps.append((row, name, map_or_error))

    def _behind(self, rows: Sequence[_Row], found: Sequence[_Found]) -> list[AttentionMaps | None]:
        """The maps under the method's generic prompt, one per row; None where the method has none."""
        if self.spec.background_prompt is None:
            return [None] * len(rows)
        for picture, _ in dict.fromkeys((row.picture, row.view) for row in rows):
            found[picture].passes += 1
        return list(self._backgrounds.of([row.image for row in rows], self.spec))

    def _heatmap(self, row: _Row, maps: AttentionMaps, found: Sequence[_Found]) -> Heatmap | GroundingError:
        if row.view == 0:
            found[row.picture].grids = maps.grids
        try:
            return run_stages(self.method, maps)
        except (ExpressionError, EmptyMapError) as wrong:
            return wrong

    def _result(self, found: _Found, rows: Sequence[_Row], model: float) -> OpenEndedResult:
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
            )
            for row in rows
            if row.answer is not None
        )
        runs = ModelRuns(len(rows) + found.written, found.passes, encoded, asked)
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
        self, view: View, row: _Row, name: ObjectName, heatmap: Heatmap | GroundingError
    ) -> tuple[NamedMap, list[Instance], int]:
        """The masks of one map, in the picture's frame, and how many prompts they took."""
        if isinstance(heatmap, GroundingError):
            return NamedMap(name, row.view, row.question, None, (), str(heatmap)), [], 0
        whole = view.map_in_picture(heatmap)
        try:
            peeled = peel(self.segmenter, heatmap, self._points, self._mask, self.settings.peeling, name.words)
        except EmptyMapError as wrong:
            return NamedMap(name, row.view, row.question, whole, (), str(wrong)), [], 0
        segments = _joined(peeled.segments) if name.stuff and self.settings.stuff == "one" else peeled.segments
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

    def _score(self, segment: Segment, heatmap: Heatmap) -> float:
        estimate = min(1.0, max(0.0, segment.score))
        if self.settings.rank == "attention":
            return estimate * attention_inside(segment.mask, heatmap)
        return estimate * (max(0.0, segment.agreement or 0.0) if self.settings.rank == "agreement" else 1.0)

    def _in_categories(self, instances: Sequence[Instance], maps: Sequence[NamedMap]) -> list[Instance]:
        """The instances under the names of their categories; one of several likely categories is there several times."""
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
        # One mask under several likely categories is one instance: those never rival each other.
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


def _joined(segments: Sequence[Segment]) -> tuple[Segment, ...]:
    """The union of a map's masks as one segment, with the first one's points and the lowest estimate."""
    if len(segments) < 2:
        return tuple(segments)
    mask = segments[0].mask.copy()
    for one in segments[1:]:
        mask |= one.mask
    return (replace(segments[0], mask=mask, score=min(one.score for one in segments), agreement=None),)
