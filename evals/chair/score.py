"""Score captions by CHAIR: the classes that each caption names, and the published metrics over all captions.

Rohrbach et al., EMNLP 2018, section 3. A caption's objects are a multiset of COCO classes, one per mention; an object
is hallucinated if its class is not among the image's. CHAIR_I is a share of mentions over all captions, CHAIR_S a share
of captions. Recall, precision and F1 count each class once per caption, so precision is not 1 - CHAIR_I. Length is the
number of words and punctuation marks after double words are merged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evals.chair.lexicon import Lexicon
from evals.chair.truth import Truth
from evals.chair.words import Normaliser
from evals.inputs import field, read_rows, refuse_doubles, whole_number
from evals.statistics import Interval, RatioOfSums, bootstrap, mean_of
from evals.textquality import TextQuality, text_quality

ID_NAMES = ("image_id", "imageId", "id")
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
    """

    image_id: int
    words: tuple[str, ...]
    mentions: tuple[str, ...]
    hallucinated: tuple[str, ...]
    truth: frozenset[str]
    quality: TextQuality

    @property
    def distinct(self) -> int:
        """Number of different classes named."""
        return len(set(self.mentions))

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


def read_captions(path: str | Path) -> tuple[ImageCaption, ...]:
    """Read captions from JSON lines or a JSON array of objects with `image_id` and `caption`.

    Raises:
        EvalDataError: the file cannot be read, a row lacks an id or a text, or an id occurs twice.
    """
    captions = []
    for number, row in enumerate(read_rows(path, "the captions"), 1):
        where = f"row {number} of {path}"
        captions.append(ImageCaption(whole_number(row, ID_NAMES, where), field(row, CAPTION_NAMES, str, where)))
    refuse_doubles((one.image_id for one in captions), path, "image ids")
    return tuple(captions)


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
    mentions = lexicon.objects(words)
    wrong = tuple(one for one in mentions if one not in truth)
    return CaptionScore(image_id, tuple(words), mentions, wrong, truth, quality)


def cut(score: CaptionScore, length: int, lexicon: Lexicon) -> CaptionScore:
    """Score a caption's first `length` words and punctuation marks; the quality stays that of the whole text."""
    return with_words(score.image_id, score.words[:length], score.truth, lexicon, score.quality)


def ratios(scores: Sequence[CaptionScore]) -> dict[str, RatioOfSums]:
    """Compute every metric of `ChairScore` as a ratio of sums, by name."""
    groups = np.array([one.image_id for one in scores], np.int64)

    def ratio(tops: list[int], bottoms: list[int]) -> RatioOfSums:
        return RatioOfSums(np.array(tops, np.float64), np.array(bottoms, np.float64), groups)

    mentions = [len(one.mentions) for one in scores]
    distinct = [one.distinct for one in scores]
    correct = [one.correct for one in scores]
    shown = [len(one.truth) for one in scores]
    quality = [one.quality for one in scores]
    grams = np.array([one.grams for one in quality], np.float64)
    different = np.array([one.distinct_grams for one in quality], np.float64)
    share = np.divide(different, grams, out=np.zeros_like(grams), where=grams > 0)
    return {
        "chair_s": mean_of([bool(one.hallucinated) for one in scores], groups),
        "chair_i": ratio([len(one.hallucinated) for one in scores], mentions),
        "recall": ratio(correct, shown),
        "precision": ratio(correct, distinct),
        # 2PR / (P + R) with P = correct / distinct and R = correct / shown.
        "f1": ratio([2 * one for one in correct], [a + b for a, b in zip(distinct, shown, strict=True)]),
        "length": mean_of([len(one.words) for one in scores], groups),
        "chair_i_distinct": ratio([a - b for a, b in zip(distinct, correct, strict=True)], distinct),
        "distinct_objects": mean_of(distinct, groups),
        "distinct_rate": ratio(distinct, mentions),
        "distinct_4": RatioOfSums(share, (grams > 0).astype(np.float64), groups),
        "repeated_sentences": mean_of([one.repeats for one in quality], groups),
        "cut_off": mean_of([one.cut_off for one in quality], groups),
    }


def chair(scores: Sequence[CaptionScore], *, seed: int = 0) -> ChairScore:
    """Compute the metrics over captions.

    Args:
        scores: one per caption, at least one.
        seed: of the bootstrap.
    """
    found = {name: bootstrap(ratio, seed=seed) for name, ratio in ratios(scores).items()}
    return ChairScore(n=len(scores), empty=sum(not one.words for one in scores), **found)
