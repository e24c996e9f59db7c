"""Show the chosen region to the model again, and ask whether it is what was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image

from grounding.candidates.verification import Verification, view_of
from grounding.errors import ModelError

if TYPE_CHECKING:
    from grounding.candidates.base import RankedCandidate
    from grounding.source import MapSource


@dataclass(frozen=True)
class Verified:
    """What the model said of the regions that it was shown.

    Attributes:
        accepted: place in the ranking of the first one that it accepted; None where it accepted none.
        shares: its share of yes, for each that it was shown.
    """

    accepted: int | None
    shares: tuple[float, ...]


def verify(
    source: MapSource,
    image: Image.Image,
    ranking: Sequence[RankedCandidate],
    expression: str,
    noun: str,
    how: Verification,
) -> Verified:
    """Show candidates, best first, until the model accepts one.

    Args:
        source: a vision-language model, which answers the questions.
        image: RGB.
        ranking: candidates, best first.
        expression: the words.
        noun: their head noun.
        how: view, question and bar.

    Raises:
        ExpressionError: the question has words outside a closed vocabulary.
        ModelError: the source answers no questions; see also `grounding.models.presence.yes_shares`.
    """
    from grounding.models.base import VLM
    from grounding.models.presence import yes_shares

    if not isinstance(source, VLM):
        raise ModelError(f"{source.name} answers no questions, so no region can be verified: leave --verify out")
    shares: list[float] = []
    for place, one in enumerate(ranking[: how.tries]):
        shown = view_of(image, one.candidate.mask, how)
        shares += yes_shares(source, [shown], [how.asked(expression, noun)])
        if shares[-1] >= how.bar:
            return Verified(place, tuple(shares))
    return Verified(None, tuple(shares))
