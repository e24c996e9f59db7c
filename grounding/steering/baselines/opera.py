"""OPERA: beam search with an over-trust penalty on attention to summary tokens, and retrospective rollback.

Huang et al., CVPR 2024, arXiv 2311.17911, with the numbers and rules of its released code. Shape letters: W beams, C
candidates per beam, N prompt length, t tokens of the answer so far, n new tokens, V vocabulary, Q queries, K keys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from grounding.attention.call import AttentionCall
from grounding.attention.events import Scope, Subscriber
from grounding.attention.intercept import intercept
from grounding.attention.rows import iter_rows
from grounding.errors import MethodError
from grounding.models.base import VLM, Prepared
from grounding.models.spelling import end_tokens
from grounding.steering.base import GenerateOverrides, GenerationContext
from grounding.steering.baselines.beams import Beams
from grounding.steering.baselines.follower import Follower
from grounding.steering.decoding import Decoding

_LARGEST = 700.0
"""Logarithm of the largest penalty; e^709 is close to the largest float64."""


@dataclass(frozen=True)
class OverTrust:
    """Replace decoding by OPERA's beam search.

    A is the last layer's attention, the maximum over heads, with each row divided by its sum. Column j of the answer
    has the score `base * prod_{i >= j} (scale * A[i, j])`, large where all later tokens attend to token j. Each of
    the `candidates` most probable tokens of a beam is read, and the largest column score, times `weight`, is subtracted
    from its logit; for the first `early` tokens, its attention on the image is added instead. Only candidates can be
    chosen. Once one column has been the largest at more than `patience` steps in every beam, the search rolls back to
    the token after that column and chooses again, without penalties, from all tokens except those chosen there before.

    Images are run one at a time, with `beams` beams; the decoding's `num_beams` is ignored.

    Attributes:
        beams: W, >= 1.
        candidates: C, >= 2; also the maximum number of rollbacks to one position.
        scale: factor on attention weights, > 0.
        base: factor on their product, > 0.
        weight: factor on the penalty, >= 0.
        early: number of first tokens scored by their attention on the image, >= 1; the search never rolls back to their
            columns.
        patience: number of steps at which a column may be the largest without a rollback, >= 2.
        window: maximum rollback in tokens, >= 1.

    Raises:
        MethodError: a value is out of range.

    Notes:
        Our choices, where the paper is silent or its code appears unintended: products are computed in log space and
        float64, because they exceed the range of the code's half precision, and penalties are limited to e^700; tokens
        that are not candidates get probability 0 instead of a logit of -999; a rollback clears the forbidden tokens of
        all later positions, where the code's index reaches only the next one; ended texts are compared by the mean
        log-probability of new tokens, the end token included.
    """

    beams: int = 5
    candidates: int = 5
    scale: float = 50.0
    base: float = 1e-7
    weight: float = 1.0
    early: int = 10
    patience: int = 15
    window: int = 512

    name: ClassVar[str] = "over-trust"
    searches: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if min(self.beams, self.early, self.window) < 1 or self.candidates < 2 or self.patience < 2:
            raise MethodError("over-trust needs beams, early and window of at least 1, candidates and patience of 2")
        if not (self.scale > 0 and self.base > 0 and self.weight >= 0):
            raise MethodError("over-trust needs scale and base above 0 and a weight of at least 0")

    def check(self, vlm: VLM, decoding: Decoding) -> None:
        """Check that the decoding does not sample.

        Raises:
            MethodError: it does.
        """
        if decoding.do_sample:
            raise MethodError("over-trust is a beam search and draws no tokens: leave do_sample off")

    @contextmanager
    def applied(self, context: GenerationContext) -> Iterator[GenerateOverrides]:
        """Replace the decoding loop of `generate`; see `Intervention`.

        Raises:
            MethodError: the decoding samples.
            RecordingError: the calls of the model's last layer cannot be followed.
        """
        self.check(context.vlm, context.decoding)
        vlm = context.vlm
        rows = _LastRows()

        def loop(model: Any, input_ids: Tensor, logits_processor: Any, generation_config: Any, **_: Any) -> Tensor:
            ends = end_tokens(model)
            limit = generation_config.max_length - input_ids.shape[1]
            answers = []
            for image, question in zip(context.images, context.questions, strict=True):
                prepared = context.vlm.prepare_questions([image], [question])
                # The model that `generate` was called of: `model` may be the language model within, without pictures.
                answers.append(_Search(self, vlm.model, prepared, rows, logits_processor, ends, limit).run())
            longest = max(len(answer) for answer in answers)
            padding = generation_config.pad_token_id
            padded = [answer + [padding] * (longest - len(answer)) for answer in answers]
            return torch.cat([input_ids, torch.tensor(padded, device=input_ids.device)], dim=1)

        with intercept(vlm.model, rows, Scope(calls=(vlm.row_layers[-1],)), backend="transformers"):
            yield GenerateOverrides(options={"num_beams": 1, "custom_generate": loop})


class _LastRows(Subscriber):
    """Compute the last layer's attention rows of each pass while `wanted` is set."""

    def __init__(self) -> None:
        self.wanted = False
        self.rows = torch.empty(0)
        """[W, Q, K] of the latest pass: maximum over heads, each row divided by its sum."""

    def wants(self, layer: int) -> bool:
        return self.wanted

    def observe(self, layer: int, call: AttentionCall, output: Tensor) -> None:
        queries = torch.arange(call.query_count, device=call.query.device)
        located = replace(call, query_offset=call.key_count - call.query_count)
        found = [
            torch.cat([weights.amax(dim=0) for _, weights in iter_rows(located, element, queries)])
            for element in range(len(call.query))
        ]
        rows = torch.stack(found)
        self.rows = rows / rows.sum(dim=-1, keepdim=True)


@dataclass(frozen=True)
class _State:
    """Hold the search before one position's token was chosen, and the choice.

    Attributes:
        beams: before the choice.
        parents: [W] int64, the beam that each chosen token extends.
        tokens: [W] int64, the chosen tokens.
    """

    beams: Beams
    parents: Tensor
    tokens: Tensor


class _Search:
    """Search for one answer.

    Args:
        step: parameters of the search.
        model: a transformers model.
        prepared: a batch of one.
        rows: receives the last layer's attention.
        processor: a function from [W, N + t] ids and [W, V] log-probabilities to new log-probabilities.
        ends: ids that end a text.
        limit: maximum length of the answer in tokens.

    Raises:
        MethodError: the model's cache cannot remove tokens.
    """

    def __init__(
        self,
        step: OverTrust,
        model: Any,
        prepared: Prepared,
        rows: _LastRows,
        processor: Callable[[Tensor, Tensor], Tensor],
        ends: frozenset[int],
        limit: int,
    ) -> None:
        self._step, self._rows, self._processor, self._limit = step, rows, processor, limit
        self._follower = Follower(model, prepared.inputs)
        if not self._follower.can_forget:
            raise MethodError(
                "over-trust takes back what it has read, but this model's cache is a sliding window or holds keys of "
                "pictures"
            )
        self._prompt = prepared.inputs["input_ids"]  # [1, N]
        self._image = torch.as_tensor(prepared.layouts[0].image, device=self._prompt.device)
        self._beams = Beams.start(step.beams, ends, self._prompt.device)
        self._columns = torch.zeros(step.beams, 0, dtype=torch.float64, device=self._prompt.device)
        self._states: list[_State] = []
        self._largest: list[Tensor] = []  # per step [W], each beam's column
        self._returns: dict[int, int] = {}
        self._forbidden: dict[int, list[tuple[Tensor, Tensor]]] = {}

    def run(self) -> list[int]:
        """Return the answer's tokens, the end token included."""
        logits = self._follower.read().expand(self._step.beams, -1)
        self._follower.select(torch.zeros(self._step.beams, dtype=torch.int64, device=logits.device))
        self._rows.wanted = True
        try:
            while True:
                scores = self._penalised(logits.double())
                back = self._rollback_position()
                if back is not None:
                    scores = self._rolled_back(back)
                self._choose(scores)
                if self._beams.is_done or self._beams.length == self._limit:
                    return self._beams.best()
                logits = self._follower.follow(self._beams.tokens[:, -1:])
                self._columns = self._grown(self._rows.rows)
        finally:
            self._rows.wanted = False

    def _penalised(self, logits: Tensor) -> Tensor:
        """Compute penalised log-probabilities [W, V] of the candidates from logits [W, V]; store largest columns."""
        kept, candidates = logits.topk(self._step.candidates, dim=-1)  # [W, C]
        penalties, largest = [], []
        for candidate in candidates.unbind(1):
            self._follower.follow(candidate[:, None])
            self._follower.forget(1)
            score, column = self._grown(self._rows.rows).max(dim=-1)
            if self._beams.length < self._step.early:
                penalties.append(-self._rows.rows[:, -1, self._image].double().sum(dim=-1))
            else:
                penalties.append((torch.log(score.new_tensor(self._step.base)) + score).clamp(max=_LARGEST).exp())
            largest.append(column)
        self._largest.append(torch.stack(largest, dim=1).mode(dim=1).values)
        chosen = torch.log_softmax(kept - self._step.weight * torch.stack(penalties, dim=1), dim=-1)
        return torch.full_like(logits, -torch.inf).scatter(1, candidates, chosen)

    def _grown(self, rows: Tensor) -> Tensor:
        """Extend the log column products to [W, t + n] by n new attention rows [W, n, N + t + n]."""
        own = torch.log(self._step.scale * rows[:, :, self._prompt.shape[1] :].double())  # [W, n, t + n]
        count, length = own.shape[1:]
        row = torch.arange(length - count, length, device=own.device)[:, None]
        later = row >= torch.arange(length, device=own.device)
        columns = own.masked_fill(~later, 0.0).sum(dim=1)
        columns[:, : length - count] += self._columns[:, : length - count]
        return columns

    def _rollback_position(self) -> int | None:
        """Return the position to choose again, if one column has been the largest often enough in every beam."""
        column = int(self._largest[-1].mode().values)
        often = (torch.stack(self._largest) == column).sum(dim=0) > self._step.patience  # [W]
        if column < self._step.early or not bool(often.all()):
            return None
        for position in (column + 1, column):
            if self._returns.get(position, 0) < self._step.candidates:
                self._returns[position] = self._returns.get(position, 0) + 1
                return max(position, self._beams.length - self._step.window)
        return None

    def _rolled_back(self, position: int) -> Tensor:
        """Restore the search before a position; return [W, V] log-probabilities with earlier choices excluded."""
        state = self._states[position]
        self._follower.forget(self._beams.length)
        self._beams = state.beams
        del self._states[position:], self._largest[position + 1 :]
        self._columns = self._columns[:, :0]
        logits = self._follower.follow(self._beams.tokens)
        self._columns = self._grown(self._rows.rows)
        self._forbidden = {known: pairs for known, pairs in self._forbidden.items() if known <= position}
        self._forbidden.setdefault(position, []).append((state.parents, state.tokens))
        logits = logits.double()
        for parents, tokens in self._forbidden[position]:
            logits[parents, tokens] = -torch.inf
        return torch.log_softmax(logits, dim=-1)

    def _choose(self, scores: Tensor) -> None:
        """Extend the beams by the best tokens of [W, V] log-probabilities."""
        ids = torch.cat([self._prompt.expand(self._step.beams, -1), self._beams.tokens], dim=1)
        scores = self._processor(ids, scores.float()).double()
        before = self._beams
        self._beams, parents = before.extended(scores)
        self._states.append(_State(before, parents, self._beams.tokens[:, -1]))
        self._follower.select(parents)
        self._columns = self._columns.index_select(0, parents)
