"""Score captions by CHAIR: the classes that each caption names, and the published metrics over all captions.

Rohrbach et al., EMNLP 2018, section 3. A caption's objects are a multiset of COCO classes, one per mention; an object
is hallucinated if its class is not among the image's. CHAIR_I is a share of mentions over all captions, CHAIR_S a share
of captions. Recall, precision and F1 count each class once per caption, so precision is not 1 - CHAIR_I. Length is the
number of words and punctuation marks after double words are merged.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from evals.chair.counts import CaptionCounts
from evals.chair.lexicon import Lexicon
from evals.chair.truth import Truth
from evals.chair.words import Normaliser
from evals.inputs import field, image_number, iter_rows
from evals.statistics import Interval, RatioOfSums, bootstrap_all
from evals.textquality import TextQuality, text_quality
from grounding.errors import EvalDataError

ID_NAMES = ("image_id", "imageId", "cocoid", "image", "image_path", "file_name", "filename", "id")
CAPTION_NAMES = ("caption", "text", "response", "answer")


@dataclass(frozen=True)
class ImageCaption:
    """A caption of an image."""

    image_id: int
    text: str


@dataclass(frozen=True)
class CaptionScore:
    """One caption compared with its image's classes.

    Attributes:
        image_id: the image.
        words: base words after merging double words; their number is the length.
        mentions: the classes named, one per mention, in order.
        hallucinated: the mentions whose class the image does not show.
        truth: the image's classes.
        quality: repetition and unfinished ends of the text.
        places: of each mention, its index among the words.
    """

    image_id: int
    words: tuple[str, ...]
    mentions: tuple[str, ...]
    hallucinated: tuple[str, ...]
    truth: frozenset[str]
    quality: TextQuality
    places: tuple[int, ...] = ()

    @property
    def correct(self) -> int:
        """Number of different classes named that the image shows."""
        return len(set(self.mentions) & self.truth)


@dataclass(frozen=True)
class ChairScore:
    """Metrics over captions, each with its bootstrap interval over images; fractions unless said otherwise.

    Attributes:
        n: number of captions.
        empty: captions without a word; they count as naming no object.
        chair_s: share of captions with a hallucinated object; lower is better.
        chair_i: share of mentions that are hallucinated; lower is better.
        recall: share of the images' classes that are named, each counted once per caption.
        precision: share of the named classes that the images show, each counted once per caption.
        f1: harmonic mean of recall and precision.
        length: mean number of words and punctuation marks.
        chair_i_distinct: 1 - precision: CHAIR_I with each class counted once per caption; repetition cannot lower it.
        distinct_objects: mean number of different classes named.
        distinct_rate: different classes per mention, over all captions; repetition lowers it.
        distinct_4: mean share of a caption's 4-grams that differ, over captions that have any.
        repeated_sentences: share of captions that repeat a sentence.
        cut_off: share of captions that end without closing punctuation.
    """

    n: int
    empty: int
    chair_s: Interval
    chair_i: Interval
    recall: Interval
    precision: Interval
    f1: Interval
    length: Interval
    chair_i_distinct: Interval
    distinct_objects: Interval
    distinct_rate: Interval
    distinct_4: Interval
    repeated_sentences: Interval
    cut_off: Interval


def iter_captions(path: str | Path) -> Iterator[ImageCaption]:
    """Read captions one by one from JSON lines or a JSON array of objects with `image_id` and `caption`.

    The id is a whole number, or COCO's name of the picture, such as "COCO_val2014_000000000139.jpg".

    Raises:
        EvalDataError: the file cannot be read, or a row lacks an id or a text; after the last, an id occurred twice.
    """
    rows: dict[int, int] = {}
    doubled: list[int] = []
    for number, row in enumerate(iter_rows(path, "the captions"), 1):
        where = f"row {number} of {path}"
        caption = ImageCaption(image_number(row, ID_NAMES, where), field(row, CAPTION_NAMES, str, where))
        if rows.setdefault(caption.image_id, number) != number:
            doubled += [caption.image_id, number]
        yield caption
    if doubled:
        first, second = doubled[:2]
        raise EvalDataError(
            f"{path} has {len(set(doubled[::2]))} image ids more than once, the first is {first} in rows {rows[first]} "
            f"and {second}: keep one row of each"
        )


def read_captions(path: str | Path) -> tuple[ImageCaption, ...]:
    """Read all captions; see `iter_captions`."""
    return tuple(iter_captions(path))


def score_caption(caption: ImageCaption, truth: Truth, lexicon: Lexicon, normalise: Normaliser) -> CaptionScore:
    """Score one caption.

    Raises:
        KeyError: the ground truth lacks the image (see `refuse_unknown`).
    """
    base = normalise(caption.text)
    words = lexicon.merge(base)
    return with_words(caption.image_id, words, truth[caption.image_id], lexicon, text_quality(caption.text, base))


def with_words(
    image_id: int, words: Sequence[str], truth: frozenset[str], lexicon: Lexicon, quality: TextQuality
) -> CaptionScore:
    """Score base words whose double words are merged already."""
    places = lexicon.places(words)
    mentions = tuple(lexicon.class_of[words[place]] for place in places)
    wrong = tuple(one for one in mentions if one not in truth)
    return CaptionScore(image_id, tuple(words), mentions, wrong, truth, quality, places)


def cut(score: CaptionScore, length: int, lexicon: Lexicon) -> CaptionScore:
    """Score a caption's first `length` words and punctuation marks; the quality stays that of the whole text."""
    if length >= len(score.words):
        return score
    return with_words(score.image_id, score.words[:length], score.truth, lexicon, score.quality)


def ratios(scores: Iterable[CaptionScore]) -> dict[str, RatioOfSums]:
    """Compute every metric of `ChairScore` as a ratio of sums, by name."""
    return CaptionCounts.of(scores).ratios()


def chair(scores: Iterable[CaptionScore] | CaptionCounts, *, seed: int = 0) -> ChairScore:
    """Compute the metrics over captions.

    Args:
        scores: one per caption, at least one; or their counts.
        seed: of the bootstrap.
    """
    counts = scores if isinstance(scores, CaptionCounts) else CaptionCounts.of(scores)
    return ChairScore(n=len(counts), empty=counts.empty, **bootstrap_all(counts.ratios(), seed=seed))
