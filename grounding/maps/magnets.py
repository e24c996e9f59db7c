"""Ask for magnets at recording, and drop their maps.

A magnet takes part in each cell's softmax over text. Cells that fit it better than the expression, most of them
background, give it their weight; with Z_T and Z_M the sums of exponentiated logits over expression and magnets, the
expression keeps Z_T / (Z_T + Z_M) of what it had.

Vision-language models have no magnets here. Their cells come before the text and do not attend to it, and words behind
an expression leave the rows of the words before them as they are, so only the prompt's last row can change. For the
packaged `starter` it changes for the worse: a copy of its method with the prompt `where is {expression} a the of ?`
points at 0.938 of the objects of `grounding eval scenes --limit 80 --seed 77`, its own prompt at 0.988 (difference
0.050 [0.012, 0.100]). Magnet words' rows as a contrast, and each cell's shares among words and magnets, did not help
`starter` or `starter-photo` either.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from grounding.errors import MethodError
from grounding.joint_spec import MagnetEncoding, MagnetWords
from grounding.maps.base import Part, Stage, keep_words, lost_share
from grounding.record_spec import RecordSpec
from grounding.types import AttentionMaps, Direction, StageReport, WordKind

PRESETS: dict[str, tuple[str, ...]] = {
    "teaser": ("_", "with", "a", "the", "pink"),
    "page": (".", "a", "with"),
    "figure2": ("with", "to", "pink"),
    "commas": (",",) * 5,
    "none": (),
}
"""Lists of magnets: three that RefAM's page shows in different places, and commas in place of padding."""


@dataclass(frozen=True)
class Magnets(Stage):
    """Record with words appended to the prompt, and drop their rows (RefAM, arXiv 2509.22650).

    Attributes:
        preset: a list of `PRESETS`.
        words: magnets in place of the preset's.
        encoding: `separate`: each is encoded alone, with its own end token, and appended to the prompt's states;
            `inline`: all are encoded behind the prompt, in the same string.
        skip_content: leave out a content word, such as a colour, that the expression holds.

    Notes:
        RefAM's page shows three lists; each magnet has an end token of its own there, so each may have been encoded
        alone. What happens where the expression holds the colour is not said: to leave it out is our choice. `commas`
        is no list of RefAM's.
    """

    name: ClassVar[str] = "magnets"
    requires: ClassVar[frozenset[Part]] = frozenset({"words", "background"})
    directions: ClassVar[frozenset[Direction]] = frozenset({"image-to-word"})
    preset: str = "teaser"
    words: tuple[str, ...] = ()
    encoding: MagnetEncoding = "separate"
    skip_content: bool = True

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise MethodError(f"stage 'magnets' knows the presets {', '.join(PRESETS)}, got {self.preset!r}")
        if not all(word.strip() for word in self.words):
            raise MethodError(f"stage 'magnets' got a blank word among {self.words}: leave it out")

    def needs(self, layer_count: int | None) -> RecordSpec:
        """The magnets."""
        texts = self.words or PRESETS[self.preset]
        return RecordSpec(magnets=MagnetWords(texts, self.encoding, self.skip_content) if texts else None)

    def apply(self, maps: AttentionMaps) -> tuple[AttentionMaps, StageReport]:
        """Drop the rows of magnets, their end tokens included."""
        result = keep_words(maps, [i for i, word in enumerate(maps.words) if word.kind is not WordKind.MAGNET])
        why = {i: "magnet" for i, word in enumerate(maps.words) if word.kind is WordKind.MAGNET}
        dropped = [maps.words[i].text for i in why]
        removed = lost_share(float(maps.values.sum(dtype=float)), float(result.values.sum(dtype=float)))
        detail = f"{len(dropped)} magnet tokens dropped: {' '.join(dropped)}" if dropped else "no magnets were recorded"
        return result, StageReport(self.name, removed, detail, {"dropped": dropped}, why)
