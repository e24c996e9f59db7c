"""The options of open-ended segmentation, for its command and its evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from grounding.errors import UsageError
from grounding.files import user_path
from grounding.runs.provenance import short_hash
from grounding.segmenters.instance_suppression import Overlap
from grounding.segmenters.peeling import Peeling
from grounding.text.categories import CategoryFinder, read_vocabulary
from grounding.text.names import Merge, Stuff
from pipelines.open_ended_settings import (  # fmt: skip
    DiscoverySettings,
    MapsFrom,
    OverlapBy,
    Points,
    QuestionEnsemble,
    Rank,
)

if TYPE_CHECKING:
    from grounding.text.categories import Vocabulary


@dataclass(frozen=True, kw_only=True)
class DiscoveryOptions:
    """How objects are listed, found and ranked.

    Attributes:
        question: the question for the objects; left out, the model's own.
        question_ensemble: `off` asks one question, `fixed` several, `written` up to ten that the model writes about the
            image.
        multi_scale: look at the four quarters of the image too.
        answers: to each question; several need sampled decoding.
        maps: read a name's map in the `answer`, or ask for each name with the method's prompt (`question`; one more
            run per name).
        merge: which mentions in an answer are one object: of one `names`, of one `phrases` (with adjectives), `none`.
        stuff: nouns like "sky" are `one` instance, `many` as things are, or left out (`drop`).
        max_names: most names of one answer.
        points: `pair` is one point on the object and one off it, `method` the method's own rule.
        cascade: refine every mask in three calls.
        rounds: most masks of one map, which is masked and asked again.
        least_peak: stop there where the highest value left is below this share of the map's first one.
        least_new: stop where less than this share of a mask is new.
        margin: how far around a mask its map is masked, in units of the square root of the mask's area.
        rank: score of an instance: the segmenter's estimate times the map's mean on the mask (`attention`), times the
            agreement of mask and map (`agreement`), or alone (`iou`).
        overlap: an instance is left out where its IoU with a better one is larger.
        overlap_of: IoU of `mask` or `box`.
        overlap_by: instances of one `name` rival each other, or `all` do.
        embedder: text embedding model, a hub id or folder, for names that are no word of a category.
        top_categories: most categories of one name that are found by embedding.
    """

    question: str | None = None
    question_ensemble: QuestionEnsemble = DiscoverySettings.question_ensemble
    multi_scale: bool = DiscoverySettings.multi_scale
    answers: int = DiscoverySettings.answers
    maps: MapsFrom = DiscoverySettings.maps
    merge: Merge = DiscoverySettings.merge
    stuff: Stuff = DiscoverySettings.stuff
    max_names: int = DiscoverySettings.max_names
    points: Points = DiscoverySettings.points
    cascade: bool = DiscoverySettings.cascade
    rounds: int = Peeling.rounds
    least_peak: float = Peeling.least_peak
    least_new: float = Peeling.least_new
    margin: float = Peeling.margin
    rank: Rank = DiscoverySettings.rank
    overlap: float = DiscoverySettings.overlap
    overlap_of: Overlap = DiscoverySettings.overlap_of
    overlap_by: OverlapBy = DiscoverySettings.overlap_by
    embedder: str | None = None
    top_categories: int = 1

    def settings(self) -> DiscoverySettings:
        """The settings that the options name.

        Raises:
            MethodError: one is out of range.
            SegmenterError: one of when to stop is.
        """
        if self.top_categories < 1:
            raise UsageError(f"--top-categories {self.top_categories} was given, expected at least 1")
        return DiscoverySettings(
            question=self.question,
            question_ensemble=self.question_ensemble,
            multi_scale=self.multi_scale,
            answers=self.answers,
            maps=self.maps,
            merge=self.merge,
            stuff=self.stuff,
            max_names=self.max_names,
            points=self.points,
            cascade=self.cascade,
            peeling=Peeling(self.rounds, self.least_peak, self.least_new, self.margin),
            rank=self.rank,
            overlap=self.overlap,
            overlap_of=self.overlap_of,
            overlap_by=self.overlap_by,
        )

    def finder(self, vocabulary: Vocabulary | None) -> CategoryFinder | None:
        """What maps names to categories; None without a vocabulary.

        Raises:
            UsageError: an embedding model was given without one.
            ModelError: the embedding model cannot be loaded.
        """
        if vocabulary is None:
            if self.embedder is not None:
                raise UsageError(f"--embedder {self.embedder!r} was given without --vocabulary: give a category list")
            return None
        if self.embedder is None:
            return CategoryFinder(vocabulary, None, self.top_categories)
        from grounding.text.embedding import TextEmbedding

        return CategoryFinder(vocabulary, TextEmbedding.from_pretrained(self.embedder), self.top_categories)


def vocabulary_in(file: Path | None) -> tuple[Vocabulary | None, str | None]:
    """A category list and the hash of its content; None twice without a file.

    Raises:
        UsageError: see `grounding.text.categories.read_vocabulary`.
    """
    if file is None:
        return None, None
    found = read_vocabulary(user_path(file))
    return found, short_hash([[one.id, one.name, list(one.synonyms)] for one in found.categories], 16)
