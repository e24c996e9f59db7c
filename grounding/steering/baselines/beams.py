"""The beams of one element, as values: extending them makes new ones, so a search can go back to old ones."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

_UNUSED = -1e9
"""Score of beams that do not exist yet, as in transformers: all begin from the first."""


@dataclass(frozen=True)
class Beams:
    """W texts that grow together, and those that have ended.

    Attributes:
        tokens: [W, t] int64.
        scores: [W] float64, sums of log-probabilities.
        ended: (mean log-probability, tokens) of the best W texts that ended.
        ends: ids that end a text.
        is_done: whether no open text becomes better than the ended ones, judged by its mean now, as in transformers.
    """

    tokens: Tensor
    scores: Tensor
    ended: tuple[tuple[float, tuple[int, ...]], ...]
    ends: frozenset[int]
    is_done: bool = False

    @classmethod
    def start(cls, count: int, ends: frozenset[int], device: torch.device) -> Beams:
        """Empty texts."""
        scores = torch.full((count,), _UNUSED, dtype=torch.float64, device=device)
        scores[0] = 0.0
        return cls(torch.zeros(count, 0, dtype=torch.int64, device=device), scores, (), ends)

    @property
    def length(self) -> int:
        """t."""
        return self.tokens.shape[1]

    def extended(self, scores: Tensor) -> tuple[Beams, Tensor]:
        """One token more.

        Args:
            scores: [W, V] float64 log-probabilities.

        Returns:
            (the new beams, [W] the old beam that each goes on from).
        """
        count, vocabulary = scores.shape
        totals, places = (self.scores[:, None] + scores).flatten().topk(max(2, 1 + len(self.ends)) * count)
        length = self.length + 1
        ended, taken = list(self.ended), []
        for rank, (total, place) in enumerate(zip(totals.tolist(), places.tolist(), strict=True)):
            beam, token = divmod(place, vocabulary)
            if token not in self.ends:
                taken.append(rank)
            elif rank < count:
                ended.append((total / length, (*self.tokens[beam].tolist(), token)))
            if len(taken) == count:
                break
        ended = sorted(ended, key=lambda text: -text[0])[:count]
        chosen = places[taken]
        parents, tokens = chosen // vocabulary, chosen % vocabulary
        done = len(ended) == count and ended[-1][0] >= float(totals[0]) / length
        grown = torch.cat([self.tokens.index_select(0, parents), tokens[:, None]], dim=1)
        return replace(self, tokens=grown, scores=totals[taken], ended=tuple(ended), is_done=done), parents

    def best(self) -> list[int]:
        """The best text; open ones compete unless the search is done."""
        texts = list(self.ended)
        if not self.is_done:
            means = (self.scores / self.length).tolist()
            texts += zip(means, map(tuple, self.tokens.tolist()), strict=True)
        return list(max(texts, key=lambda text: text[0])[1])
