"""Contrastive decoding: combine next-token predictions of one model on two prompts.

The second prompt (a noised image, no image) is read once and then extended token by token with its own key/value cache,
so a contrasted token costs one additional pass of one position.

Shape letters: B batch, R rows (B times beams), N length of prompt and answer, M length of the second prompt, V
vocabulary.
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
    """Run the model on a second prompt, extended by the tokens of the main generation.

    It runs in an empty `contextvars` context, so recordings and steering apply to the main branch only.

    Args:
        model: a transformers model for image-text generation.
        inputs: the second prompt: [B, M] ids and mask padded on the left, and other arguments of the model's forward.
    """

    def __init__(self, model: Any, inputs: Mapping[str, Tensor]) -> None:
        self._follower = Follower(model, inputs)
        self._batch = len(inputs["attention_mask"])
        self._seen: Tensor | None = None

    def log_probabilities(self, tokens: Tensor) -> Tensor:
        """Compute the log-probabilities of the next token after the second prompt and the answer so far.

        Args:
            tokens: [R, N] ids of the main prompt and its answer, the beams of an element adjacent; one token longer
                than at the previous call.

        Returns:
            [R, V] float32 log-probabilities.

        Raises:
            MethodError: the answer did not grow by exactly one token, as in assisted generation.
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
    """Combine the model's log-probabilities with those of a second branch, as a logits processor.

    Args:
        combine: a function from the model's and the branch's [R, V] log-probabilities to new scores [R, V].
        branch: the second branch; None where its weight is 0 and it is not run.
    """

    def __init__(self, combine: Combine, branch: Branch | None) -> None:
        self._combine = combine
        self._branch = branch

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Compute new scores [R, V] from ids [R, N] and scores [R, V], which are logits or log-probabilities."""
        own = torch.log_softmax(scores.float(), dim=-1)
        other = self._branch.log_probabilities(input_ids) if self._branch is not None else None
        return self._combine(own, other)


def plausible(scores: Tensor, own: Tensor, share: float) -> Tensor:
    """Set scores to -inf for tokens whose probability is below `share` times that of the most probable token.

    Args:
        scores: [R, V].
        own: [R, V] log-probabilities of the unmodified model, which decide.
        share: in [0, 1]; 0 keeps all tokens.

    Returns:
        [R, V].
    """
    if share == 0:
        return scores
    floor = own.amax(dim=-1, keepdim=True) + torch.tensor(share, dtype=own.dtype, device=own.device).log()
    return scores.masked_fill(own < floor, -torch.inf)


def _parents(seen: Tensor, prefixes: Tensor, beams: int) -> Tensor:
    """Find the previous row that each row extends, [R] int64.

    `generate` does not report how beam search reordered its rows; rows of one element with equal tokens are identical.

    Args:
        seen: [R, N - 1] ids of the previous call.
        prefixes: [R, N - 1] ids of this call without the newest token.
        beams: rows per element.
    """
    rows = torch.arange(len(seen), device=seen.device)
    if torch.equal(seen, prefixes):
        return rows
    same = (prefixes[:, None] == seen[None]).all(dim=-1) & (rows[:, None] // beams == rows[None] // beams)
    return same.int().argmax(dim=-1)
