"""What a model names in pictures, and the map of each name: the first half of open-ended segmentation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from PIL import Image

from grounding.errors import EmptyMapError, ExpressionError, GroundingError
from grounding.layout import ImageGrid
from grounding.methods import Method, run_stages
from grounding.runs.attempts import attempt, cut
from grounding.source import Backgrounds, refuse_particular_background
from grounding.steering.decoding import Decoding, Generated
from grounding.text.names import ObjectName, listed_phrases, object_names
from grounding.types import AttentionMaps, Heatmap
from pipelines.open_ended_settings import WRITE_QUESTIONS, DiscoverySettings, written_questions
from pipelines.views import View, views_of

if TYPE_CHECKING:
    from grounding.models.base import VLM
    from grounding.steering.method import Steering


@dataclass
class Row:
    """One question about one view, its answer, and the names in it.

    Attributes:
        picture: index of the picture in the call.
        view: number of the view.
        question: number of the question.
        image: the view's RGB pixels.
        asked: the question.
        answer: None before the model has answered.
        text: the answer as its tokens spell it, which the names' spans are in.
        names: that are looked for.
        dropped: how many more the answer has.
    """

    picture: int
    view: int
    question: int
    image: Image.Image = field(repr=False)
    asked: str
    answer: Generated | None = None
    text: str = ""
    names: tuple[ObjectName, ...] = ()
    dropped: int = 0


@dataclass
class Listed:
    """What a model named in one picture.

    Attributes:
        image: RGB.
        views: the whole picture first.
        rows: every question about every view, answered.
        maps: of each name the row that named it, and its map in the view's frame or why there is none.
        written: whether the model wrote the questions, which is one more answer.
        passes: that recorded maps of names.
        behind: numbers of the views whose maps under the method's generic prompt were recorded.
        grids: of the whole picture, where a map of it was recorded.
        notes: one sentence each.
    """

    image: Image.Image
    views: tuple[View, ...]
    rows: list[Row] = field(default_factory=list)
    maps: list[tuple[Row, ObjectName, Heatmap | GroundingError]] = field(default_factory=list)
    written: bool = False
    passes: int = 0
    behind: set[int] = field(default_factory=set)
    grids: tuple[ImageGrid, ...] = ()
    notes: list[str] = field(default_factory=list)


class ObjectLister:
    """Ask a model what is in pictures, and record the maps of the names in its answers.

    Args:
        vlm: the vision-language model.
        method: from attention to a map.
        settings: which views and questions, and where maps are read.
        decoding: how answers are generated.
        steering: a steering method for the answers; maps are the unsteered model's.
        batch_size: most prompts in one pass.
    """

    def __init__(
        self,
        vlm: VLM,
        method: Method,
        settings: DiscoverySettings,
        decoding: Decoding,
        steering: Steering | None,
        batch_size: int,
    ) -> None:
        self.vlm = vlm
        self.method = method
        self.settings = settings
        self.decoding = decoding
        self.steering = steering
        self.batch_size = batch_size
        self.spec = method.record_spec(vlm.layer_count)
        refuse_particular_background(self.spec, method.name)
        self._backgrounds = Backgrounds(vlm)
        # Whether prompts can share a beginning is found out at the first batch that could.
        self._unshared: str | None = None if steering is None else "steering edits every pass"
        self._tried = steering is not None

    def __call__(self, images: Sequence[Image.Image]) -> list[Listed]:
        """List the objects of pictures.

        Args:
            images: RGB.

        Returns:
            One for each picture.

        Raises:
            GroundingError: see `pipelines.open_ended.OpenEndedSegmentation`.
        """
        found = [Listed(image, views_of(image, self.settings.multi_scale)) for image in images]
        rows = self._rows(found)
        for row in rows:
            found[row.picture].rows.append(row)
        self._answer(rows, found)
        if self.settings.maps == "answer":
            self._maps_of_answers(rows, found)
        else:
            self._maps_of_questions(rows, found)
        return found

    def _rows(self, found: Sequence[Listed]) -> list[Row]:
        """Every question about every view of every picture."""
        fixed = self.settings.questions(self.vlm.own_words)
        asked = [fixed] * len(found)
        if self.settings.question_ensemble == "written":
            wrote = self._generate([one.image for one in found], [WRITE_QUESTIONS] * len(found))
            asked = []
            for one, answer in zip(found, wrote, strict=True):
                one.written = True
                own = written_questions(answer.text)
                if not own:
                    one.notes.append("the model wrote no question of its own, so it was asked the usual one")
                asked.append(own or fixed)
        return [
            Row(picture, number, index, view.image, question)
            for picture, (one, questions) in enumerate(zip(found, asked, strict=True))
            for number, view in enumerate(one.views)
            for index, question in enumerate(questions)
            for _ in range(self.settings.answers)
        ]

    def _answer(self, rows: Sequence[Row], found: Sequence[Listed]) -> None:
        """Generate the answers, and read their names."""
        from grounding.models.spelling import spell, until_end

        answers = self._generate([row.image for row in rows], [row.asked for row in rows])
        for row, answer in zip(rows, answers, strict=True):
            row.answer = answer
            row.text = spell(self.vlm.tokenizer, until_end(self.vlm.model, answer.token_ids))[0].strip()
            phrases = listed_phrases(row.text, self.vlm.finder)
            every = object_names(phrases, self.settings.merge, self.settings.stuff)
            row.names = every[: self.settings.max_names]
            row.dropped = len(every) - len(row.names)
        for one in found:
            if not any(row.names for row in one.rows):
                one.notes.append("the model named no object")
            dropped = sum(row.dropped for row in one.rows)
            if dropped:
                one.notes.append(f"{dropped} names beyond {self.settings.max_names} of an answer were not looked for")
            if self._unshared is not None and len(one.rows) > len(one.views):
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

    def _maps_of_answers(self, rows: Sequence[Row], found: Sequence[Listed]) -> None:
        """Read the maps of names where the model wrote them, by teacher forcing, one pass per answer."""
        from grounding.models.teacher_forcing import teacher_forced_maps

        named = [row for row in rows if row.names]
        for batch in cut(named, self.batch_size):
            prepared = self.vlm.prepare_questions([row.image for row in batch], [row.asked for row in batch])
            tokens = [row.answer.token_ids for row in batch if row.answer is not None]
            wanted = {row.text: [name.phrase for name in row.names] for row in batch}
            texts = teacher_forced_maps(self.vlm, prepared, tokens, self.spec, phrases=wanted.__getitem__)
            behind = self._behind(batch, found)
            for row, text, background in zip(batch, texts, behind, strict=True):
                found[row.picture].passes += 1
                of_span = {phrase.span: maps for phrase, maps in zip(text.phrases, text.maps, strict=True)}
                for name in row.names:
                    maps = of_span.get(name.phrase.span)
                    lacks = ExpressionError(f"the tokenizer gives {name.words!r} no token of its own")
                    self._add(found[row.picture], row, name, lacks if maps is None else maps, background)

    def _maps_of_questions(self, rows: Sequence[Row], found: Sequence[Listed]) -> None:
        """Ask for each name of a view with the method's prompt; a name of several answers is asked for once."""
        asked: dict[tuple[int, int, object], tuple[Row, ObjectName]] = {}
        for row in rows:
            for name in row.names:
                key = name.name if self.settings.merge == "names" else name.words
                asked.setdefault((row.picture, row.view, key), (row, name))
        plain = replace(self.spec, background_prompt=None)

        def record(batch: Sequence[tuple[Row, ObjectName]]) -> list[AttentionMaps]:
            images, words = [row.image for row, _ in batch], [name.words for _, name in batch]
            return self.vlm.maps(images, words, plain, self.method.prompt)

        for batch in cut(list(asked.values()), self.batch_size):
            recorded = attempt(batch, record)
            behind = self._behind([row for row, _ in batch], found)
            for (row, name), maps, background in zip(batch, recorded, behind, strict=True):
                found[row.picture].passes += 1
                self._add(found[row.picture], row, name, maps, background)

    def _behind(self, rows: Sequence[Row], found: Sequence[Listed]) -> list[AttentionMaps | None]:
        """The maps under the method's generic prompt, one per row; None where the method has none."""
        if self.spec.background_prompt is None:
            return [None] * len(rows)
        for row in rows:
            found[row.picture].behind.add(row.view)  # `Backgrounds` keeps those of the last batch
        return list(self._backgrounds.of([row.image for row in rows], self.spec))

    def _add(
        self,
        found: Listed,
        row: Row,
        name: ObjectName,
        maps: AttentionMaps | GroundingError,
        background: AttentionMaps | None,
    ) -> None:
        """Take a name's maps through the method's stages."""
        heatmap: Heatmap | GroundingError
        if isinstance(maps, GroundingError):
            heatmap = maps
        else:
            if row.view == 0:
                found.grids = maps.grids
            try:
                heatmap = run_stages(self.method, replace(maps, background=background))
            except (ExpressionError, EmptyMapError) as wrong:
                heatmap = wrong
        found.maps.append((row, name, heatmap))
