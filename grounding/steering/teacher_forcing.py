"""A sample as the model reads it: one sequence of prompt and answer, and the answer's rows again on a kept prompt.

Rows from the prompt's last position on are those that steering changes in a generation, and an answer's tokens are
predicted from. What is before them stays as it is whatever happens to a head there, so it is read once and its keys
and values are kept; trying a head out costs a pass over the answer alone.
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
from grounding.compat import cache_argument
from grounding.errors import ExpressionError
from grounding.models.base import VLM, Prepared
from grounding.models.spelling import spell
from grounding.models.teacher_forcing import continued, tokens_of
from grounding.steering.apply import GenerationPass
from grounding.steering.samples import CalibrationSample
from grounding.text.align import align


@dataclass(frozen=True)
class TeacherForcedSample:
    """A sample's sequence; positions count from 0 at its first token, and nothing is padded.

    Attributes:
        vlm: the model.
        prepared: the question's prompt.
        inputs: prompt and answer by the model's argument names.
        targets: positions of the word's tokens, ascending, all behind the prompt.
    """

    vlm: VLM
    prepared: Prepared
    inputs: Mapping[str, Tensor]
    targets: tuple[int, ...]

    @classmethod
    def of(cls, vlm: VLM, sample: CalibrationSample, *, ended: bool = False) -> TeacherForcedSample:
        """Place a sample's words.

        Args:
            vlm: the model.
            sample: what is read.
            ended: read the token that ends a text behind the answer, as one of its own.

        Raises:
            ExpressionError: the answer is empty, has words outside a closed vocabulary, or lacks the word.
            ModelError: tokens, text and image cells cannot be brought together for this model.
        """
        prepared = vlm.prepare_questions([sample.image], [sample.question])
        tokens = tokens_of(vlm, sample.answer)
        if not tokens:
            raise ExpressionError("the answer is empty: give the text that the model is to read")
        if ended and vlm.tokenizer.eos_token_id is not None:
            tokens = (*tokens, vlm.tokenizer.eos_token_id)
        places = tuple(range(len(tokens))) if sample.word is None else _places(vlm, tokens, sample.word)
        return cls(
            vlm,
            prepared,
            continued(vlm, prepared.inputs, [tokens]),
            tuple(prepared.length + place for place in places),
        )

    @property
    def start(self) -> int:
        """The prompt's last position, the first row that an answer's token is predicted from."""
        return self.prepared.length - 1

    @property
    def rows(self) -> tuple[int, ...]:
        """The rows that the word's tokens are predicted from."""
        return tuple(target - 1 for target in self.targets)


class _DecoderInputs(Subscriber):
    """Keeps the keyword arguments that the whole model gave its decoder."""

    of_last_pass: Mapping[str, Any]

    def begin_pass(self, running: Pass) -> None:
        assert running.inputs is not None
        self.of_last_pass = running.inputs


class AnswerForward:
    """The rows from a reading's `start` to the last that a target is predicted from, on the keys of what is before.

    Passes go through the decoder itself, with the embeddings and positions that the whole model gave it.

    Args:
        reading: what is read.
        differentiable: whether gradients can be taken of what is computed from the tail's embeddings on.
    """

    def __init__(self, reading: TeacherForcedSample, *, differentiable: bool = False) -> None:
        from transformers import DynamicCache

        model, self._decoder = reading.vlm.model, reading.vlm.decoder
        self._head = model.get_output_embeddings()
        self._start = reading.start
        inputs = _DecoderInputs()
        with torch.no_grad(), intercept(model, inputs, Scope(), stack=decoder_stack(model, self._decoder)):
            model(**reading.inputs, use_cache=False, logits_to_keep=1)
        seen = inputs.of_last_pass
        self._argument = cache_argument(self._decoder)
        stop = reading.rows[-1] + 1
        self._embeddings: Tensor = seen["inputs_embeds"]
        self._positions: Tensor | None = seen.get("position_ids")
        self._cache = DynamicCache(config=self._decoder.config)
        with torch.no_grad():
            self._decoder(**self._part(0, self._start), **{self._argument: self._cache}, use_cache=True)
        self._tail = self._part(self._start, stop)
        if differentiable:
            # Also of a model whose weights are frozen.
            self._tail["inputs_embeds"] = self._tail["inputs_embeds"].detach().clone().requires_grad_()
        ids = reading.inputs["input_ids"][0]
        device = self._head.weight.device
        self._targets = ids[list(reading.targets)].to(device)
        self._rows = torch.tensor([row - self._start for row in reading.rows], device=device)

    @property
    def cached_bytes(self) -> int:
        """What the kept keys and values take."""
        return sum(part.nbytes for layer in self._cache.layers for part in (layer.keys, layer.values))

    def log_probability(self, copies: int = 1, weights: Tensor | None = None) -> Tensor:
        """[copies] float32, the mean log-probability of the target tokens, each given all tokens before it.

        Args:
            copies: how many times the same rows are read in one batch, for whoever changes each of them otherwise.
            weights: [T] how much each target counts in the mean; alike where None.
        """
        cache = copy.deepcopy(self._cache)
        if copies > 1:
            cache.batch_repeat_interleave(copies)
        inputs = {
            name: value.repeat_interleave(copies, dim=0 if name == "inputs_embeds" else value.ndim - 2)
            for name, value in self._tail.items()
        }
        hidden = self._decoder(**inputs, **{self._argument: cache}, use_cache=True).last_hidden_state
        logits = self._head(hidden.to(self._rows.device)[:, self._rows]).float()  # [copies, T, V]
        chosen = torch.log_softmax(logits, dim=-1).gather(-1, self._targets.expand(copies, -1)[..., None])
        if weights is None:
            return chosen[..., 0].mean(-1)
        return (chosen[..., 0] * weights.to(chosen.device)).sum(-1) / weights.sum()

    def _part(self, start: int, stop: int) -> dict[str, Tensor]:
        """Embeddings [1, n, E] and, where the model makes its own, positions [..., 1, n]."""
        part = {"inputs_embeds": self._embeddings[:, start:stop]}
        return part if self._positions is None else part | {"position_ids": self._positions[..., start:stop]}


class AnswerEditor(ABC):
    """Edit the answer's rows alone; the prompt is left as it is.

    Args:
        reading: what is read.
    """

    residual_layers: Collection[int] = ()
    gate_layers: Collection[int] = ()

    def __init__(self, reading: TeacherForcedSample) -> None:
        self.layers: Collection[int] = range(reading.vlm.layer_count)
        self.image = reading.prepared.layouts[0].image.tolist()

    def edit(self, layer: int, call: AttentionCall, running: GenerationPass) -> RowEdit | None:
        """The edit of the answer's rows."""
        return self.answer(layer, call) if running.past > 0 else None

    @abstractmethod
    def answer(self, layer: int, call: AttentionCall) -> RowEdit | None:
        """See `edit`; all queries of the call are rows of the answer."""

    def residual(self, layer: int, hidden: Tensor, running: GenerationPass) -> None:  # noqa: B027 - a plan may look away
        """No residuals needed."""

    def gates(self, layer: int, running: GenerationPass) -> Tensor | None:
        """No gates."""
        return None

    def gated_from(self, running: GenerationPass) -> Tensor:
        """No position is gated."""
        return torch.tensor([running.prompt])


def _places(vlm: VLM, tokens: tuple[int, ...], word: str) -> tuple[int, ...]:
    text, spans = spell(vlm.tokenizer, tokens)
    found = re.search(rf"(?<!\w){re.escape(word.strip())}(?!\w)", text, re.IGNORECASE) if word.strip() else None
    places = align([found.span()], spans)[0] if found else ()
    if not places:
        raise ExpressionError(f"the word {word!r} is not in the answer {text.strip()[:60]!r}: name a word of it")
    return places
