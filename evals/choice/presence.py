"""The model's own answers about picture and chosen region, asked once for each region."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from evals.choice.judged import Judged
from grounding.run_lengths import PackedMask
from grounding.text.parse import parse
from pipelines.referring import ReferringSegmentation
from pipelines.verify import presence


class Presence:
    """Put the model's answers among the signals of answers; what was asked before is not asked again.

    Args:
        pipe: its model is asked, as its method's verification says.
        advance: called with 1 after every answer.
    """

    def __init__(self, pipe: ReferringSegmentation, advance: Callable[[int], None] = lambda count: None) -> None:
        self._pipe = pipe
        self._advance = advance
        self._known: dict[tuple[int, str, PackedMask], tuple[float, float]] = {}

    def __call__(self, answers: Sequence[Judged]) -> list[Judged]:
        """The answers with `presence` and `crop` of the best candidate; those without a picture are left as they are.

        Raises:
            ModelError: see `grounding.models.presence.yes_shares`.
        """
        return [self._asked(one) for one in answers]

    def _asked(self, one: Judged) -> Judged:
        self._advance(1)
        if one.signals is None or one.image is None:
            return one
        key = (one.picture, one.words, one.ranking[0].candidate.packed)
        if key not in self._known:
            noun = " ".join(word.text for word in parse(one.words) if word.is_head) or one.words
            how = self._pipe.method.verification
            self._known[key] = presence(self._pipe.source, one.image(), one.ranking[0], one.words, noun, how)
        whole, crop = self._known[key]
        return replace(one, signals=replace(one.signals, presence=whole, crop=crop))
