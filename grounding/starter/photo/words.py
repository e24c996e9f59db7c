"""The photo starter's vocabulary: the frequent words of its training captions, one token each.

Tokens are whole words, so a word's map is the attention row of one token, and an unknown word is refused instead of
being split into pieces. Rare words of the captions become `<unk>`, which is never a target.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from grounding.photos import coco_classes
from grounding.text.kinds import kind_of
from grounding.types import WordKind

MIN_COUNT = 3
DESCRIBE = "describe the image ."
DETAIL = "describe the image in detail ."
ENUMERATE = "what is in the image ?"
EXISTS = "is there {thing} in the image ?"
ABOUT = "describe the {expression} ."
_FRAME = "user assistant : . , ? a an the is are there in of on at and to what yes no describe image detail".split()
# Words besides stop words that name no object.
_NO_THINGS = frozenset(
    "image picture photo photograph view close group couple pair lot bunch several two three four five six seven eight "
    "nine ten one many some few number kind type way time front back side top middle background area scene day "
    "various different other others another something each together".split()
)


def split(text: str) -> list[str]:
    """Split a text into lower-case words and punctuation marks."""
    from tokenizers.pre_tokenizers import Whitespace

    return [word for word, _ in Whitespace().pre_tokenize_str(text.lower())]


def vocabulary(captions: Iterable[str], min_count: int = MIN_COUNT) -> tuple[str, ...]:
    """Return the vocabulary: words of the prompts and of COCO's classes, then of the captions by falling frequency.

    Args:
        captions: captions of the training photos only.
        min_count: smallest count of a caption's word.
    """
    counts = Counter(word for caption in captions for word in split(caption))
    fixed = [*_FRAME, *(word for name in coco_classes() for word in name.split())]
    often = sorted((word for word, count in counts.items() if count >= min_count), key=lambda w: (-counts[w], w))
    return tuple(dict.fromkeys([*fixed, *often]))


def is_thing(word: str) -> bool:
    """Whether a word may name an object: not a stop word, spatial word, number or word for pictures."""
    return word.isalpha() and len(word) > 2 and word not in _NO_THINGS and kind_of(word) is WordKind.CONTENT


def with_article(noun: str) -> str:
    """Return a noun with its article: a dog, an umbrella, skis."""
    if noun.endswith("s") and not noun.endswith(("ss", "us")):
        return noun
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
