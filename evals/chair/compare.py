"""Compare two runs over the same images: as they are, at equal recall, and at equal length.

Shorter captions have a better CHAIR for their length alone. So the run with the higher recall is also cut, after a
number of words, until both have the same recall; and both captions of an image are cut to the length of the shorter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from evals.chair.lexicon import Lexicon
from evals.chair.score import CaptionScore, cut, ratios
from evals.paired import PairedDifference, paired
from evals.statistics import sign_test
from grounding.errors import EvalDataError

Side = Literal["a", "b"]
# The metrics of text quality make no sense after a cut.
OF_OBJECTS = ("chair_s", "chair_i", "chair_i_distinct", "recall", "precision", "f1", "length", "distinct_objects")


@dataclass(frozen=True)
class Matched:
    """The differences after a cut.

    Attributes:
        cut_run: which run was cut; None if both were, or neither.
        k: length after the cut, in words and punctuation marks; None if it differs by image, or nothing was cut.
        figures: differences by name. Intervals take the cut as fixed; they do not include the uncertainty of k.
    """

    cut_run: Side | None
    k: int | None
    figures: Mapping[str, PairedDifference]


@dataclass(frozen=True)
class CaptionComparison:
    """The differences of two runs.

    Attributes:
        n: images that both describe.
        only_a: images that only the first describes, left out.
        only_b: images that only the second describes, left out.
        figures: the differences by name, of the captions as they are.
        a_alone: captions that hallucinate in the first run only.
        b_alone: captions that hallucinate in the second run only.
        chair_s_exact_p: p value of McNemar's exact test of these two numbers.
        recall_matched: at equal recall.
        length_matched: at equal length, image by image.
    """

    n: int
    only_a: int
    only_b: int
    figures: Mapping[str, PairedDifference]
    a_alone: int
    b_alone: int
    chair_s_exact_p: float
    recall_matched: Matched
    length_matched: Matched


def compare(
    a: Sequence[CaptionScore], b: Sequence[CaptionScore], lexicon: Lexicon, *, seed: int = 0
) -> CaptionComparison:
    """Compare two runs on the images that both describe.

    Args:
        a: the first run, one score an image.
        b: the second, in any order.
        lexicon: the tables they were scored with.
        seed: of bootstrap and permutation test.

    Raises:
        EvalDataError: they share no image.
    """
    first, second = ({one.image_id: one for one in run} for run in (a, b))
    shared = sorted(set(first) & set(second))
    if not shared:
        raise EvalDataError(
            f"the two runs share none of their {len(first)} and {len(second)} images, so that nothing can be paired: "
            "give two runs over the same images"
        )
    one, other = [first[image] for image in shared], [second[image] for image in shared]
    alone = [bool(x.hallucinated) - bool(y.hallucinated) for x, y in zip(one, other, strict=True)]
    return CaptionComparison(
        n=len(shared),
        only_a=len(first) - len(shared),
        only_b=len(second) - len(shared),
        figures=differences(one, other, seed=seed),
        a_alone=alone.count(1),
        b_alone=alone.count(-1),
        chair_s_exact_p=sign_test(alone.count(1), alone.count(-1)),
        recall_matched=match_recall(one, other, lexicon, seed=seed),
        length_matched=match_length(one, other, lexicon, seed=seed),
    )


def differences(
    a: Sequence[CaptionScore], b: Sequence[CaptionScore], names: Sequence[str] | None = None, *, seed: int = 0
) -> dict[str, PairedDifference]:
    """Compare every metric of two runs over the same images."""
    one = ratios(a)
    return paired({name: one[name] for name in names or one}, ratios(b), seed=seed)


def match_recall(a: Sequence[CaptionScore], b: Sequence[CaptionScore], lexicon: Lexicon, *, seed: int = 0) -> Matched:
    """Cut the run with the higher recall after the fewest words that keep at least the other's recall.

    At least, so that a remaining difference is not due to a lower recall of the cut run.
    """
    one, other = ratios(a)["recall"].value, ratios(b)["recall"].value
    if one == other:
        return Matched(None, None, differences(a, b, OF_OBJECTS, seed=seed))
    longer: Side = "a" if one > other else "b"
    scores, wanted = (a, other) if longer == "a" else (b, one)
    k = _shortest(scores, wanted, lexicon)
    shortened = [cut(score, k, lexicon) for score in scores]
    one_run, other_run = (shortened, b) if longer == "a" else (a, shortened)
    return Matched(longer, k, differences(one_run, other_run, OF_OBJECTS, seed=seed))


def match_length(a: Sequence[CaptionScore], b: Sequence[CaptionScore], lexicon: Lexicon, *, seed: int = 0) -> Matched:
    """Cut both captions of every image to the length of the shorter."""
    lengths = [min(len(x.words), len(y.words)) for x, y in zip(a, b, strict=True)]
    one, other = ([cut(score, length, lexicon) for score, length in zip(run, lengths, strict=True)] for run in (a, b))
    return Matched(None, None, differences(one, other, OF_OBJECTS, seed=seed))


def _shortest(scores: Sequence[CaptionScore], wanted: float, lexicon: Lexicon) -> int:
    """The smallest k at which the recall is at least `wanted`."""
    shown = sum(len(score.truth) for score in scores)
    longest = max(len(score.words) for score in scores)
    for k in range(1, longest):
        if sum(cut(score, k, lexicon).correct for score in scores) >= wanted * shown:
            return k
    return longest
