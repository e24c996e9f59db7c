"""Prepare a run's worst samples for the page: picture, highlighted text, hallucinated and missed objects."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from evals.chair.lexicon import Lexicon
from evals.chair.spans import mention_spans
from evals.folder import Folder, SampleLine
from grounding.errors import ImageError
from grounding.images import open_image

THUMBNAIL = 480  # longer side in pixels
_QUALITY = 80
_HALLUCINATED = 3  # MMHal-Bench: a rating below 3 counts as a hallucination


@dataclass(frozen=True)
class Piece:
    """A part of a text.

    Attributes:
        text: the characters.
        kind: `wrong` for a hallucinated object, `right` for an object in the picture, empty for the rest.
    """

    text: str
    kind: str = ""


@dataclass(frozen=True)
class Case:
    """One sample.

    Attributes:
        id: the sample's.
        picture: its thumbnail as a data URI; None if it cannot be read.
        has_picture: whether the sample has a picture.
        question: the question.
        pieces: the answer, cut into parts.
        invented: hallucinated objects.
        missed: objects in the picture that were not named.
        wanted: the right answer of a yes-no question; else empty.
        notes: other defects of the text.
    """

    id: str
    picture: str | None
    has_picture: bool
    question: str
    pieces: tuple[Piece, ...]
    invented: tuple[str, ...]
    missed: tuple[str, ...]
    wanted: str
    notes: tuple[str, ...]


def worst(run: Folder, count: int, lexicon: Lexicon | None = None) -> tuple[Case, ...]:
    """Select the worst samples: those that hallucinate most objects first; of yes-no questions the wrong ones.

    A text that only leaves objects out is no case: the shortest texts would stand first.

    Args:
        run: the folder.
        count: most samples.
        lexicon: from words to objects; None for the words that the run's lines say were counted.
    """
    known = lexicon or run.counted
    bad = [one for one in run.samples if not one.error and badness(one)[0] > 0]
    verbs = run.pipeline == "nltk"
    # The sort is stable, so ties keep the order of the samples.
    return tuple(make_case(one, known, verbs=verbs) for one in sorted(bad, key=badness, reverse=True)[:count])


def badness(sample: SampleLine) -> tuple[int, int, int]:
    """Count hallucinated objects, their mentions, and missed objects; (1, 0, 0) of a wrong answer."""
    if "right" in sample.fields or "says" in sample.fields:
        right = sample.fields.get("right", sample.fields.get("says") == sample.fields.get("truth"))
        return (0 if right else 1, 0, 0)
    rating = sample.fields.get("rating")
    if isinstance(rating, int | float):
        return (1 if rating < _HALLUCINATED else 0, 0, 0)
    invented = _invented(sample)
    return (len(set(invented)), len(invented), len(sample.names("missed")))


def make_case(sample: SampleLine, lexicon: Lexicon, *, verbs: bool = False) -> Case:
    """Prepare one sample for the page; `verbs` as in `evals.chair.spans.mention_spans`."""
    truth, says = sample.fields.get("truth"), sample.fields.get("says")
    notes = [
        *(["cut at the token limit"] if sample.finished is False else []),
        *(["a sentence stands twice"] if sample.fields.get("repeats") is True else []),
        *([f"rated {sample.fields['rating']}"] if "rating" in sample.fields else []),
        *(["neither yes nor no"] if "says" in sample.fields and says is None else []),
    ]
    return Case(
        id=sample.id,
        picture=thumbnail(sample.image) if sample.image else None,
        has_picture=sample.image is not None,
        question=sample.question,
        pieces=pieces(sample, lexicon, verbs=verbs),
        invented=tuple(dict.fromkeys(_invented(sample))),
        missed=sample.names("missed"),
        wanted=("yes" if truth else "no") if isinstance(truth, bool) else "",
        notes=tuple(notes),
    )


def pieces(sample: SampleLine, lexicon: Lexicon, *, verbs: bool = False) -> tuple[Piece, ...]:
    """Cut a sample's text at the words that name objects; `verbs` as in `evals.chair.spans.mention_spans`."""
    wrong, named = set(_invented(sample)), set(sample.names("mentions"))
    cut: list[Piece] = []
    at = 0
    for mention in mention_spans(sample.text, lexicon, verbs=verbs):
        kind = "wrong" if mention.object in wrong else "right" if mention.object in named else ""
        if kind:
            cut += [Piece(sample.text[at : mention.start]), Piece(sample.text[mention.start : mention.end], kind)]
            at = mention.end
    return tuple(piece for piece in (*cut, Piece(sample.text[at:])) if piece.text)


@lru_cache(maxsize=512)
def thumbnail(path: Path) -> str | None:
    """Encode a small JPEG of a picture as a data URI; None if it is missing or broken."""
    try:
        image = open_image(path)
    except ImageError:
        return None
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def _invented(sample: SampleLine) -> Sequence[str]:
    return sample.names("hallucinated") or sample.names("flagged")
