"""The words a photo starter knows: those that its training captions use often enough, one token each.

Whole words rather than word pieces: a word's map is then the row of one token that was trained as that word, nearest
neighbours among a few thousand words are cheap, and a word that was never seen is known to be one and refused, where
pieces would make something of anything. Six thousand captions hold too few rare words to learn their pieces from.
Rarer words of the captions become `<unk>`, which is read but never asked for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

from grounding.photos import coco_classes
from grounding.text.words import kind_of
from grounding.types import WordKind

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

MIN_COUNT = 3
DESCRIBE = "describe the image ."
DETAIL = "describe the image in detail ."
ENUMERATE = "what is in the image ?"
EXISTS = "is there {thing} in the image ?"
ABOUT = "describe the {expression} ."
_FRAME = "user assistant : . , ? a an the is are there in of on at and to what yes no describe image detail".split()
# Words that name no thing one could point at, beyond the stop words.
_NO_THINGS = frozenset(
    "image picture photo photograph view close group couple pair lot bunch several two three four five six seven eight "
    "nine ten one many some few number kind type way time front back side top middle background area scene day "
    "various different other others another something each together".split()
)


def split(text: str) -> list[str]:
    """A text's tokens as words: lower case, punctuation apart."""
    from tokenizers.pre_tokenizers import Whitespace

    return [word for word, _ in Whitespace().pre_tokenize_str(text.lower())]


def vocabulary(captions: Iterable[str], min_count: int = MIN_COUNT) -> tuple[str, ...]:
    """The words to know: those of the prompts and of COCO's classes, then the captions' by falling frequency.

    Args:
        captions: of the training photos alone.
        min_count: how often a word must be seen.
    """
    counts = Counter(word for caption in captions for word in split(caption))
    fixed = [*_FRAME, *(word for name in coco_classes() for word in name.split())]
    often = sorted((word for word, count in counts.items() if count >= min_count), key=lambda w: (-counts[w], w))
    return tuple(dict.fromkeys([*fixed, *often]))


def is_thing(word: str) -> bool:
    """Whether a word may name something one could point at: no stop or spatial word, number or word for pictures."""
    return word.isalpha() and len(word) > 2 and word not in _NO_THINGS and kind_of(word) is WordKind.CONTENT


def with_article(noun: str) -> str:
    """A noun as lists name it: a dog, an umbrella, skis."""
    if noun.endswith("s") and not noun.endswith(("ss", "us")):
        return noun
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def known_words(tokenizer: PreTrainedTokenizerFast) -> frozenset[str]:
    """The tokenizer's words without its special tokens."""
    return frozenset(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens)
