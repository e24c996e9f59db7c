"""Run given answers under teacher forcing, with the prompt's keys and values cached.

Steering edits the rows from the prompt's last position on, and these rows predict the answer's tokens. Earlier rows do
not depend on the edit, so they are computed once; a further edit costs one pass over the answer.

Shape letters: B batch, Q queries, T target tokens, E residual width, V vocabulary, L layers, H heads.
"""

from __future__ import annotations

import copy
import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from grounding.attention.call import AttentionCall, RowEdit
from grounding.attention.events import Pass, Scope, Subscriber
from grounding.attention.intercept import intercept
from grounding.attention.introspect import decoder_stack
from grounding.compat import cache_argument, last_logits
from grounding.errors import ExpressionError
from grounding.models.base import VLM, Prepared
from grounding.models.spelling import spell
from grounding.models.teacher_forcing import continued, tokens_of
from grounding.steering.apply import GenerationPass
from grounding.steering.samples import CalibrationSample
from grounding.text.align import align


@dataclass(frozen=True)
class TeacherForcedSample:
    """Hold the unpadded sequence of a prompt and its answer; positions count from 0 at the first token.

    Attributes:
        vlm: the model.
        prepared: the prompt.
        inputs: prompt and answer, by the model's argument names.
        targets: positions of the word's tokens, ascending, all after the prompt.
    """

    vlm: VLM
    prepared: Prepared
    inputs: Mapping[str, Tensor]
    targets: tuple[int, ...]

    @classmethod
    def of(cls, vlm: VLM, sample: CalibrationSample, *, ended: bool = False) -> TeacherForcedSample:
        """Tokenise a sample and locate its word.

        Args:
            vlm: the model.
            sample: image, question and answer.
            ended: append the end token to the answer and include it in the targets of a whole answer.

        Raises:
            ExpressionError: the answer is empty, has words outside a closed vocabulary, or does not contain the word.
            ModelError: tokens, text and image cells cannot be aligned for this model.
        """
        question = vlm.default_question if sample.question is None else sample.question
        prepared = vlm.prepare_questions([sample.image], [question])
        tokens = tokens_of(vlm, sample.answer)
        if not tokens:
            raise ExpressionError("the answer is empty: give the text that the model is to read")
        if ended and vlm.tokenizer.eos_token_id is not None:
            tokens = (*tokens, vlm.tokenizer.eos_token_id)
        chosen = tuple(range(len(tokens))) if sample.word is None else _tokens_of_word(vlm, tokens, sample.word)
        return cls(
            vlm,
            prepared,
            continued(vlm, prepared.inputs, [tokens]),
            tuple(prepared.length + index for index in chosen),
        )

    @property
    def start(self) -> int:
        """The prompt's last position, whose row predicts the answer's first token."""
        return self.prepared.length - 1

    @property
    def rows(self) -> tuple[int, ...]:
        """Positions of the rows that predict the word's tokens."""
        return tuple(target - 1 for target in self.targets)


class _DecoderInputs(Subscriber):
    """Store the keyword arguments that the whole model passes to its decoder."""

    of_last_pass: Mapping[str, Any]

    def begin_pass(self, running: Pass) -> None:
        assert running.inputs is not None
        self.of_last_pass = running.inputs


class AnswerForward:
    """Run the rows from `start` to the last row that predicts a target, on the cached keys of earlier positions.

    The decoder is called directly, with the embeddings and positions that the whole model passes to it.

    Args:
        forced: the sequence.
        differentiable: make the answer's embeddings require gradients, so that the passes build a graph also where the
            weights are frozen.
    """

    def __init__(self, forced: TeacherForcedSample, *, differentiable: bool = False) -> None:
        from transformers import DynamicCache

        model, self._decoder = forced.vlm.model, forced.vlm.decoder
        self._head = model.get_output_embeddings()
        self._start = forced.start
        inputs = _DecoderInputs()
        with torch.no_grad(), intercept(model, inputs, Scope(), stack=decoder_stack(model, self._decoder)):
            model(**forced.inputs, use_cache=False, logits_to_keep=last_logits())
        seen = inputs.of_last_pass
        self._argument = cache_argument(self._decoder)
        stop = forced.rows[-1] + 1
        self._embeddings: Tensor = seen["inputs_embeds"]
        self._positions: Tensor | None = seen.get("position_ids")
        self._cache = DynamicCache(config=self._decoder.config)
        with torch.no_grad():
            self._decoder(**self._part(0, self._start), **{self._argument: self._cache}, use_cache=True)
        self._answer_inputs = self._part(self._start, stop)
        if differentiable:
            embeddings = self._answer_inputs["inputs_embeds"]
            self._answer_inputs["inputs_embeds"] = embeddings.detach().clone().requires_grad_()
        ids = forced.inputs["input_ids"][0]
        device = self._head.weight.device
        self._targets = ids[list(forced.targets)].to(device)
        self._rows = torch.tensor([row - self._start for row in forced.rows], device=device)

    @property
    def cached_bytes(self) -> int:
        """Bytes of the cached keys and values."""
        return sum(part.nbytes for layer in self._cache.layers for part in (layer.keys, layer.values))

    def log_probability(self, copies: int = 1, weights: Tensor | None = None) -> Tensor:
        """Compute the mean log-probability of the target tokens, each given all tokens before it.

        Args:
            copies: number of equal sequences in the batch, for editors that edit each copy differently.
            weights: [T] weights of the mean; uniform where None.

        Returns:
            [copies] float32.
        """
        cache = copy.deepcopy(self._cache)
        if copies > 1:
            cache.batch_repeat_interleave(copies)
        inputs = {
            name: value.repeat_interleave(copies, dim=0 if name == "inputs_embeds" else value.ndim - 2)
            for name, value in self._answer_inputs.items()
        }
        hidden = self._decoder(**inputs, **{self._argument: cache}, use_cache=True).last_hidden_state
        logits = self._head(hidden.to(self._rows.device)[:, self._rows]).float()  # [copies, T, V]
        chosen = torch.log_softmax(logits, dim=-1).gather(-1, self._targets.expand(copies, -1)[..., None])
        if weights is None:
            return chosen[..., 0].mean(-1)
        return (chosen[..., 0] * weights.to(chosen.device)).sum(-1) / weights.sum()

    def _part(self, start: int, stop: int) -> dict[str, Tensor]:
        """Slice embeddings [1, n, E] and, where the model passes them, position ids [..., 1, n]."""
        part = {"inputs_embeds": self._embeddings[:, start:stop]}
        return part if self._positions is None else part | {"position_ids": self._positions[..., start:stop]}


class AnswerEditor(ABC):
    """Base of editors that edit the answer's rows only.

    Args:
        forced: the sequence.
    """

    residual_layers: Collection[int] = ()
    gate_layers: Collection[int] = ()

    def __init__(self, forced: TeacherForcedSample) -> None:
        self.layers: Collection[int] = forced.vlm.row_layers
        self.image = forced.prepared.layouts[0].image.tolist()

    def edit(self, layer: int, call: AttentionCall, running: GenerationPass) -> RowEdit | None:
        """Return the edit of the answer's rows; None for a pass over the prompt."""
        return self.answer(layer, call) if running.past > 0 else None

    @abstractmethod
    def answer(self, layer: int, call: AttentionCall) -> RowEdit | None:
        """Return the edit of a call whose queries are all rows of the answer; None edits nothing."""

    def residual(self, layer: int, hidden: Tensor, running: GenerationPass) -> None:  # noqa: B027 - residuals are optional
        """Ignore residuals."""

    def gates(self, layer: int, running: GenerationPass) -> Tensor | None:
        """Return None: no output is gated."""
        return None

    def gated_from(self, running: GenerationPass) -> Tensor:
        """Return the end of the prompt; unused, since no output is gated."""
        return torch.tensor([running.prompt])


def _tokens_of_word(vlm: VLM, tokens: tuple[int, ...], word: str) -> tuple[int, ...]:
    text, spans = spell(vlm.tokenizer, tokens)
    found = re.search(rf"(?<!\w){re.escape(word.strip())}(?!\w)", text, re.IGNORECASE) if word.strip() else None
    chosen = align([found.span()], spans)[0] if found else ()
    if not chosen:
        raise ExpressionError(f"the word {word!r} is not in the answer {text.strip()[:60]!r}: name a word of it")
    return chosen
