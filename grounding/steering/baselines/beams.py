"""Hold the beams of one element as immutable values, so that a search can return to earlier ones."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

_UNUSED = -1e9
"""Initial score of all beams but the first, as in transformers."""


@dataclass(frozen=True)
class Beams:
    """Hold W open texts of equal length, and the best texts that have ended.

    Attributes:
        tokens: [W, t] int64, the open texts.
        scores: [W] float64, sums of log-probabilities.
        ended: (mean log-probability, tokens) of the best W ended texts, best first.
        ends: ids that end a text.
        is_done: whether W texts have ended and no open text has a higher mean log-probability, as in transformers.
    """

    tokens: Tensor
    scores: Tensor
    ended: tuple[tuple[float, tuple[int, ...]], ...]
    ends: frozenset[int]
    is_done: bool = False

    @classmethod
    def start(cls, count: int, ends: frozenset[int], device: torch.device) -> Beams:
        """Create `count` empty texts."""
        scores = torch.full((count,), _UNUSED, dtype=torch.float64, device=device)
        scores[0] = 0.0
        return cls(torch.zeros(count, 0, dtype=torch.int64, device=device), scores, (), ends)

    @property
    def length(self) -> int:
        """t, tokens per open text."""
        return self.tokens.shape[1]

    def extended(self, scores: Tensor) -> tuple[Beams, Tensor]:
        """Extend the best texts by one token.

        Args:
            scores: [W, V] float64 log-probabilities of the next token.

        Returns:
            (the new beams, [W] int64 index of the old beam that each extends).
        """
        count, vocabulary = scores.shape
        totals, flat = (self.scores[:, None] + scores).flatten().topk(max(2, 1 + len(self.ends)) * count)
        length = self.length + 1
        ended, taken = list(self.ended), []
        for rank, (total, index) in enumerate(zip(totals.tolist(), flat.tolist(), strict=True)):
            beam, token = divmod(index, vocabulary)
            if token not in self.ends:
                taken.append(rank)
            elif rank < count:
                ended.append((total / length, (*self.tokens[beam].tolist(), token)))
            if len(taken) == count:
                break
        ended = sorted(ended, key=lambda text: -text[0])[:count]
        chosen = flat[taken]
        parents, tokens = chosen // vocabulary, chosen % vocabulary
        done = len(ended) == count and ended[-1][0] >= float(totals[0]) / length
        grown = torch.cat([self.tokens.index_select(0, parents), tokens[:, None]], dim=1)
        return replace(self, tokens=grown, scores=totals[taken], ended=tuple(ended), is_done=done), parents

    def best(self) -> list[int]:
        """Return the tokens of the text of highest mean log-probability; open texts compete unless `is_done`."""
        texts = list(self.ended)
        if not self.is_done:
            means = (self.scores / self.length).tolist()
            texts += zip(means, map(tuple, self.tokens.tolist()), strict=True)
        return list(max(texts, key=lambda text: text[0])[1])
