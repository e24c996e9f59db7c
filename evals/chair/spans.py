"""Find the character spans of a text's objects, for highlighting and for the tokens that name them.

Always by the rules of `evals.chair.words`, whichever pipeline scored the captions: NLTK's lemmas have no offsets.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from evals.chair.lexicon import Lexicon, make_lexicon
from evals.chair.words import singular, token_spans


@dataclass(frozen=True)
class Mention:
    """One mention of an object.

    Attributes:
        start: offset of the first character.
        end: offset after the last character.
        object: the class.
    """

    start: int
    end: int
    object: str


def mention_spans(text: str, lexicon: Lexicon, *, verbs: bool = False) -> tuple[Mention, ...]:
    """List every mention of a class in a text, in order.

    Args:
        text: the text.
        lexicon: the words of each class.
        verbs: whether "seated" is a mention of "seat", as it is where NLTK found the words.
    """
    base = _stem if verbs else _singular
    words = [(base(word, lexicon), start, end) for word, start, end in token_spans(text)]
    merged: list[tuple[str, int, int]] = []
    at = 0
    while at < len(words):
        pair = lexicon.pairs.get(" ".join(word for word, _, _ in words[at : at + 2])) if at + 1 < len(words) else None
        last = at if pair is None else at + 1
        merged.append((words[at][0] if pair is None else pair, words[at][1], words[last][2]))
        at = last + 1
    skipped = {"seat"} if {"toilet", "seat"} <= {word for word, _, _ in merged} else set()
    return tuple(
        Mention(start, end, lexicon.class_of[word])
        for word, start, end in merged
        if word in lexicon.class_of and word not in skipped
    )


def _singular(word: str, lexicon: Lexicon) -> str:
    return singular(word)


def _stem(word: str, lexicon: Lexicon) -> str:
    """The singular, or the known word of which a word is a form with -ed or -ing."""
    base = singular(word)
    if base not in lexicon.class_of:
        for ending in ("ed", "ing"):
            stem = word.removesuffix(ending)
            for form in (stem, f"{stem}e", stem[:-1]):
                if stem != word and form in lexicon.class_of:
                    return form
    return base


def plain_lexicon(classes: Iterable[str], words: Mapping[str, Iterable[str]] | None = None) -> Lexicon:
    """Build tables in which every class has its own name, and the words given; those of two parts are merged."""
    lines = {name: [name] for name in classes}
    for name, others in (words or {}).items():
        lines[name] = list(dict.fromkeys([*lines.get(name, [name]), *others]))
    known = make_lexicon("\n".join(", ".join(line) for line in lines.values()))
    pairs = {name: name for line in lines.values() for name in line if name.count(" ") == 1}
    return Lexicon(known.class_of, {**known.pairs, **pairs}, known.double_words)
