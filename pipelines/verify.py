"""Show the chosen region to the model again, and ask whether it is what was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
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


def presence(
    source: MapSource, image: Image.Image, one: RankedCandidate, expression: str, noun: str, how: Verification
) -> tuple[float, float]:
    """Ask whether there is such a thing, of the whole picture and of the chosen region's crop, in one batch.

    Returns:
        The model's two shares of yes; zeros for a source that answers no questions.
    """
    from grounding.models.base import VLM
    from grounding.models.presence import yes_shares

    if not isinstance(source, VLM):
        return 0.0, 0.0
    crop = view_of(image, one.candidate.mask, replace(how, view="crop"))
    whole, cropped = yes_shares(source, [image, crop], [how.asked(expression, noun)] * 2)
    return whole, cropped


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
