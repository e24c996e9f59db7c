"""The samples a run did worst on, ready to be looked at: picture, highlighted text, what was invented and missed."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from evals.chair.lexicon import Lexicon
from evals.chair.spans import mention_spans, plain_lexicon
from evals.folder import Folder, Sample
from grounding.errors import ImageError
from grounding.images import open_image

THUMBNAIL = 480  # longer side in pixels
_QUALITY = 80
_HALLUCINATED = 3  # MMHal-Bench: a rating below counts as a hallucination


@dataclass(frozen=True)
class Piece:
    """A part of a text.

    Attributes:
        text: the letters.
        kind: `wrong` for an object that is not there, `right` for one that is, empty for the rest.
    """

    text: str
    kind: str = ""


@dataclass(frozen=True)
class Case:
    """One sample.

    Attributes:
        id: the sample's.
        picture: its thumbnail as a data URI; None where it cannot be read.
        has_picture: whether the sample names one at all.
        question: what was asked.
        pieces: what was answered.
        invented: objects named that are not there.
        missed: objects that are there and were not named.
        wanted: the right answer of a yes-no question; empty otherwise.
        notes: what else is wrong with the text.
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
    """The worst samples, most invented objects first, then most missed; wrong answers of yes-no questions.

    Args:
        run: the folder.
        count: at most so many.
        lexicon: which words name which objects; the objects' own names where None.
    """
    known = lexicon or names_of(run)
    bad = [one for one in run.samples if not one.error and badness(one) > (0, 0)]
    # Stable: of equally bad ones the first come first.
    return tuple(make_case(one, known) for one in sorted(bad, key=badness, reverse=True)[:count])


def badness(sample: Sample) -> tuple[int, int]:
    """How many objects are invented and how many missed; of an answer that is judged, whether it is wrong."""
    if "right" in sample.fields or "says" in sample.fields:
        right = sample.fields.get("right", sample.fields.get("says") == sample.fields.get("truth"))
        return (0 if right else 1, 0)
    rating = sample.fields.get("rating")
    if isinstance(rating, int | float):
        return (1 if rating < _HALLUCINATED else 0, 0)
    return (len(_invented(sample)), len(sample.names("missed")))


def names_of(run: Folder) -> Lexicon:
    """Tables of the objects' own names, of all that the run's lines name."""
    keys = ("mentions", "hallucinated", "flagged", "missed")
    return plain_lexicon(sorted({name for one in run.samples for key in keys for name in one.names(key)}))


def make_case(sample: Sample, lexicon: Lexicon) -> Case:
    """A sample for the page."""
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
        pieces=pieces(sample, lexicon),
        invented=tuple(dict.fromkeys(_invented(sample))),
        missed=sample.names("missed"),
        wanted=("yes" if truth else "no") if isinstance(truth, bool) else "",
        notes=tuple(notes),
    )


def pieces(sample: Sample, lexicon: Lexicon) -> tuple[Piece, ...]:
    """A sample's text cut at the words that name objects."""
    wrong, named = set(_invented(sample)), set(sample.names("mentions"))
    cut: list[Piece] = []
    at = 0
    for mention in mention_spans(sample.text, lexicon):
        kind = "wrong" if mention.object in wrong else "right" if mention.object in named else ""
        if kind:
            cut += [Piece(sample.text[at : mention.start]), Piece(sample.text[mention.start : mention.end], kind)]
            at = mention.end
    return tuple(piece for piece in (*cut, Piece(sample.text[at:])) if piece.text)


@lru_cache(maxsize=512)
def thumbnail(path: Path) -> str | None:
    """A small JPEG of a picture as a data URI; None where it is missing or broken."""
    try:
        image = open_image(path)
    except ImageError:
        return None
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def _invented(sample: Sample) -> Sequence[str]:
    return sample.names("hallucinated") or sample.names("flagged")
