"""AMBER's generative metrics, by the authors' script (`inference.py`), quirks included.

A description's nouns that occur in the word lists are looked up in order. A noun is correct if it is on the list of
safe words, is one of the image's true words or their associates, or is similar to one of those; else it is flagged. The
paper defines per-image means; the script, and so every published number, sums over all images:

* CHAIR: share of the looked-up nouns that are flagged; lower is better.
* Cover: share of the true objects that are mentioned; higher is better.
* Hal: share of descriptions with a flagged noun; lower is better.
* Cog: share of the likely hallucinations that are mentioned; lower is better.

If several true words have the noun as an associate, it covers the first of them, and associates are searched before the
words themselves. This follows the script and affects Cover.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from evals.amber.annotations import AmberScene, Words
from evals.statistics import Interval, RatioOfSums, bootstrap_all, mean_of
from grounding.errors import EvalDataError

Similar = Callable[[str, str], bool]
HIGHER_IS_BETTER = {"chair": False, "cover": True, "hal": False, "cog": False}


@dataclass(frozen=True)
class DescriptionCounts:
    """The counts of one description.

    Attributes:
        image: the id.
        nouns: number of nouns looked up in the word lists.
        flagged: the nouns that the image does not show, one per mention.
        covered: number of true objects mentioned.
        shown: number of true objects.
        cognitive: number of likely hallucinations mentioned.
        targets: number of likely hallucinations.
    """

    image: int
    nouns: int
    flagged: tuple[str, ...]
    covered: int
    shown: int
    cognitive: int
    targets: int


@dataclass(frozen=True)
class GenerativeScore:
    """The four metrics over descriptions, fractions with intervals."""

    n: int
    chair: Interval
    cover: Interval
    hal: Interval
    cog: Interval


def same_word(one: str, other: str) -> bool:
    """Similarity without word vectors: words are similar only if equal."""
    return one == other


def score_description(
    image: int, nouns: Sequence[str], scene: AmberScene, words: Words, similar: Similar = same_word
) -> DescriptionCounts:
    """Count one description.

    Args:
        image: the id.
        nouns: the description's nouns as base words, in order, with repetitions.
        scene: the annotation.
        words: the word lists.
        similar: whether two words are similar; in the script, a similarity above 0.8 by spaCy's `en_core_web_lg`.

    Raises:
        EvalDataError: a word of the annotation is not in the word lists.
    """
    true_words, target_words = (_listed(part, words) for part in (scene.truth, scene.targets))
    known = words.known
    covered: set[int] = set()
    cognitive: set[int | None] = set()
    flagged = []
    looked_up = [noun for noun in nouns if noun in known]
    for noun in looked_up:
        if noun in words.safe:
            continue
        place = _place(noun, true_words, same_word)
        if place is not None:
            covered.add(place)
            continue
        cognitive |= {_place(noun, target_words, alike) for alike in (same_word, similar)} - {None}
        place = _place(noun, true_words, similar)
        if place is None:
            flagged.append(noun)
        else:
            covered.add(place)
    return DescriptionCounts(
        image, len(looked_up), tuple(flagged), len(covered), len(scene.truth), len(cognitive), len(scene.targets)
    )


def ratios(found: Sequence[DescriptionCounts]) -> dict[str, RatioOfSums]:
    """Compute the four metrics as ratios of sums, by name."""
    groups = np.array([one.image for one in found], np.int64)

    def ratio(tops: list[int], bottoms: list[int]) -> RatioOfSums:
        return RatioOfSums(np.array(tops, np.float64), np.array(bottoms, np.float64), groups)

    return {
        "chair": ratio([len(one.flagged) for one in found], [one.nouns for one in found]),
        "cover": ratio([one.covered for one in found], [one.shown for one in found]),
        "hal": mean_of([bool(one.flagged) for one in found], groups),
        "cog": ratio([one.cognitive for one in found], [one.targets for one in found]),
    }


def score_descriptions(found: Sequence[DescriptionCounts], *, seed: int = 0) -> GenerativeScore:
    """Compute the metrics over descriptions, at least one."""
    return GenerativeScore(len(found), **bootstrap_all(ratios(found), seed=seed))


def _listed(heads: Sequence[str], words: Words) -> list[tuple[str, int]]:
    """List every associate with the index of its head, then the heads themselves, in the script's order."""
    missing = [head for head in heads if head not in words.associates]
    if missing:
        raise EvalDataError(f"AMBER's word lists lack {missing[0]!r}: give the relation.json of these annotations")
    associates = [(word, number) for number, head in enumerate(heads) for word in words.associates[head]]
    return associates + [(head, number) for number, head in enumerate(heads)]


def _place(noun: str, words: Sequence[tuple[str, int]], alike: Similar) -> int | None:
    """The index of the first word that is like the noun."""
    return next((number for word, number in words if alike(noun, word)), None)
