"""Draw an answer with a map for every word: a page that needs nothing else, and a picture."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
import matplotlib
import numpy as np
from PIL import Image

from grounding.text.nouns import noun_phrases
from grounding.types import Heatmap, WordKind
from grounding.viz_nouns import NounPanel, noun_sheet
from pipelines.results import MappedWord

TEMPLATES = Path(__file__).parent / "templates"
COLOURS = "turbo"
_LONGEST_PICTURE = 1200  # pixels; the page holds the picture
_LONGEST_MAP = 128  # pixels; maps are smooth, and a page holds one per word
_OPACITY = 0.8


@dataclass(frozen=True)
class AnswerPiece:
    """A part of the answer: a word with its map, or what stands between words.

    Attributes:
        text: as the answer has it.
        word: the word; None for what stands between.
        kind: the class of its button.
        map: its map as a data URL.
        share: how much of its attention is on the picture, for people.
        tint: opacity of its background.
    """

    text: str
    word: MappedWord | None = None
    kind: str = ""
    map: str = ""
    share: str = ""
    tint: float = 0.0


def answer_page(
    image: Image.Image,
    question: str,
    text: str,
    words: Sequence[MappedWord],
    about: Sequence[str] = (),
    finished: bool = True,
) -> str:
    """Make the page of an answer: each of its words shows its map over the picture.

    Args:
        image: the picture.
        question: the prompt.
        text: the answer.
        words: of the answer, in order.
        about: lines below the answer.
        finished: whether the answer is whole; one that is not ends in dots.

    Returns:
        HTML without external resources; its script shows the maps.
    """
    pieces = list(_pieces(text, words))
    spans = [piece.word.span for piece in pieces if piece.word]
    nouns = [phrase.noun.span for phrase in noun_phrases(text)]
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True)
    shown = _within(image.convert("RGB"), _LONGEST_PICTURE)
    return environment.get_template("answer.html").render(
        question=question,
        pieces=pieces,
        about=about,
        finished=finished,
        picture=_data_url(shown, "JPEG"),
        size=shown.size,
        first=next((spans.index(noun) for noun in nouns if noun in spans), 0),
        colours=[matplotlib.colors.to_hex(matplotlib.colormaps[COLOURS](x)) for x in np.linspace(0, 1, 9)],
    )


def answer_sheet(
    image: Image.Image, question: str, text: str, words: Sequence[MappedWord], about: Sequence[str] = ()
) -> bytes:
    """Draw an answer with one panel for each of its words that is no stop word; see `answer_page` for the arguments.

    Returns:
        The bytes of a PNG file.
    """
    panels = [
        NounPanel((), word.text, f"{_percent(word.share)} on the picture", False, word.map)
        for word in words
        if word.kind is not WordKind.STOP
    ]
    stream = io.BytesIO()
    noun_sheet(image, text, panels, " · ".join((question, *about))).save(stream, "PNG")
    return stream.getvalue()


def heat_layer(heatmap: Heatmap, longest: int = _LONGEST_MAP) -> Image.Image:
    """Paint a heat map as a layer to lay over the picture.

    Args:
        heatmap: over the whole image.
        longest: the layer's longer side in pixels.

    Returns:
        RGBA with the image's aspect ratio, more opaque where the map is larger.
    """
    scale = longest / max(heatmap.image_size)
    width, height = (max(1, round(side * scale)) for side in heatmap.image_size)
    smooth = Image.fromarray(heatmap.values.astype(np.float32)).resize((width, height), Image.Resampling.BICUBIC)
    values = np.clip(np.asarray(smooth), 0, 1)
    painted = matplotlib.colormaps[COLOURS](values)
    painted[..., 3] = _OPACITY * np.sqrt(values)
    return Image.fromarray(np.rint(painted * 255).astype(np.uint8), "RGBA")


def _pieces(text: str, words: Sequence[MappedWord]) -> Iterator[AnswerPiece]:
    """The answer in order; of two words on the same letters the first is shown."""
    most = max((word.share for word in words), default=0.0)
    at = 0
    for word in words:
        start, end = word.span
        if start < at:
            continue
        if start > at:
            yield AnswerPiece(text[at:start])
        tint = round(0.45 * word.share / most, 3) if most > 0 else 0.0
        layer = _data_url(heat_layer(word.map), "PNG")
        yield AnswerPiece(text[start:end], word, str(word.kind.value), layer, _percent(word.share), tint)
        at = end
    if at < len(text):
        yield AnswerPiece(text[at:])


def _percent(share: float) -> str:
    return f"{share:.0%}" if share >= 0.0995 else f"{share:.1%}"


def _within(image: Image.Image, longest: int) -> Image.Image:
    scale = min(1.0, longest / max(image.size))
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image if scale == 1 else image.resize(size, Image.Resampling.LANCZOS)


def _data_url(image: Image.Image, form: str) -> str:
    stream = io.BytesIO()
    image.save(stream, form, **({"quality": 88} if form == "JPEG" else {}))
    return f"data:image/{form.lower()};base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"
