"""Contrasting two predictions of one model: what it says next, and what it says next on another prompt.

The second prompt (a spoilt picture, no picture) is read once and then followed token by token with a key-value cache of
its own, so a contrasted token costs one more pass of one position.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import Context
from typing import Any

import torch
from torch import Tensor

from grounding.errors import MethodError
from grounding.steering.baselines.follower import Follower

Combine = Callable[[Tensor, Tensor | None], Tensor]


class Branch:
    """The same model on another prompt, following a generation token by token.

    It runs in an empty context: recordings and steering that live in context variables see the main branch alone.

    Args:
        model: a transformers model for image-text generation.
        inputs: the other prompt, [B, M] ids and mask padded on the left, and what else the model's forward takes.
    """

    def __init__(self, model: Any, inputs: Mapping[str, Tensor]) -> None:
        self._follower = Follower(model, inputs)
        self._batch = len(inputs["attention_mask"])
        self._seen: Tensor | None = None

    def log_probabilities(self, tokens: Tensor) -> Tensor:
        """What the branch says next, after the same answer.

        Args:
            tokens: [R, N] the main prompt and its answer so far; R is the batch, or batch times beams with the beams of
                an element next to each other. One token longer than at the call before.

        Returns:
            [R, V] float32 log-probabilities.

        Raises:
            MethodError: the answer did not grow by one token, as in assisted generation.
        """
        step = self._begin if self._seen is None else self._follow
        logits = Context().run(step, tokens)
        self._seen = tokens
        return torch.log_softmax(logits.float(), dim=-1)

    def _begin(self, tokens: Tensor) -> Tensor:
        logits = self._follower.read()
        beams = len(tokens) // self._batch
        if beams > 1:
            rows = torch.arange(self._batch, device=tokens.device).repeat_interleave(beams)
            self._follower.select(rows)
            logits = logits.index_select(0, rows)
        return logits

    def _follow(self, tokens: Tensor) -> Tensor:
        assert self._seen is not None
        if tokens.shape != (self._seen.shape[0], self._seen.shape[1] + 1):
            raise MethodError(
                f"the answer grew from {tuple(self._seen.shape)} to {tuple(tokens.shape)} tokens in one step: "
                "contrasting follows it one token at a time, so generate without assisted decoding"
            )
        parents = _parents(self._seen, tokens[:, :-1], len(tokens) // self._batch)
        if not torch.equal(parents, torch.arange(len(parents), device=parents.device)):
            self._follower.select(parents)
        return self._follower.follow(tokens[:, -1:])


class Contrast:
    """A logits processor that combines the model's log-probabilities with another branch's.

    Args:
        combine: from the model's and the branch's [R, V] log-probabilities to the new scores [R, V].
        branch: the other branch, or None where the method's scale makes it vanish, so that it is not run.
    """

    def __init__(self, combine: Combine, branch: Branch | None) -> None:
        self._combine = combine
        self._branch = branch

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """New scores [R, V] for tokens [R, N] and scores [R, V], logits or log-probabilities."""
        own = torch.log_softmax(scores.float(), dim=-1)
        other = self._branch.log_probabilities(input_ids) if self._branch is not None else None
        return self._combine(own, other)


def plausible(scores: Tensor, own: Tensor, share: float) -> Tensor:
    """Scores with every token out whose probability is below `share` of the likeliest one's; 0 keeps all.

    Args:
        scores: [R, V] to be cut.
        own: [R, V] the model's own log-probabilities.
        share: in [0, 1].
    """
    if share == 0:
        return scores
    floor = own.amax(dim=-1, keepdim=True) + torch.tensor(share, dtype=own.dtype, device=own.device).log()
    return scores.masked_fill(own < floor, -torch.inf)


def _parents(seen: Tensor, prefixes: Tensor, beams: int) -> Tensor:
    """Which earlier row each row goes on from: [R] int64.

    Beam search tells nobody how it reordered its rows, but rows of one element with the same tokens are the same row.
    """
    rows = torch.arange(len(seen), device=seen.device)
    if torch.equal(seen, prefixes):
        return rows
    same = (prefixes[:, None] == seen[None]).all(dim=-1) & (rows[:, None] // beams == rows[None] // beams)
    return same.int().argmax(dim=-1)
