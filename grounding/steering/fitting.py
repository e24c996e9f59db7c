"""Fit head gains on images with true descriptions, with the model's weights frozen.

Two parameters per head, the log gains on image keys and on text keys, are fitted by Adam. The objective is the weighted
mean log-probability of the description's tokens under steering and teacher forcing.

Notes:
    Objective, noun weights and penalty are our choice; we know of no paper that fits gains in this way.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from grounding.attention.call import AttentionCall, AttentionEdit, RowEdit
from grounding.errors import GroundingError, MethodError
from grounding.faults import attempt_one
from grounding.memory import explain_out_of_memory
from grounding.models.base import VLM
from grounding.models.spelling import spell
from grounding.numerics import overflow
from grounding.steering.apply import apply
from grounding.steering.fit_settings import FitSettings
from grounding.steering.head_gains import HeadGains, Table
from grounding.steering.method import Steering
from grounding.steering.samples import Source
from grounding.steering.teacher_forcing import AnswerEditor, AnswerForward, TeacherForcedSample
from grounding.text.align import align
from grounding.text.nouns import noun_phrases

_REMEDY = "use smaller pictures, shorter answers, --dtype bfloat16, or a smaller model"
MAX_GAIN = 30.0
"""Gains are clamped to [1 / MAX_GAIN, MAX_GAIN] (our choice)."""


@dataclass(frozen=True)
class Fit:
    """Hold fitted gains and their provenance.

    Attributes:
        gains: the fitted step.
        n: number of samples used.
        data_sha256: hash of the samples.
        curve: mean log-probability of an answer's token in each pass, during the fit.
    """

    gains: HeadGains
    n: int
    data_sha256: str
    curve: tuple[float, ...]

    def steering(self, name: str, model: str, settings: FitSettings) -> Steering:
        """Build a steering method whose source text states model, data and settings.

        Args:
            name: of the method.
            model: name of the model.
            settings: of the fit.
        """
        kind = "One gain for all heads" if settings.shared else "A gain for every head"
        return Steering(
            name,
            f"{kind} on image and on text, fitted on true descriptions.",
            f"Fitted by grounding calibrate gains for {model} on {self.n} samples (sha256 {self.data_sha256}), "
            f"{settings}. Mean log-probability of a token, first and last pass: {self.curve[0]:.4f}, "
            f"{self.curve[-1]:.4f}.",
            (self.gains,),
        )


def fit_gains(
    vlm: VLM,
    sources: Sequence[Source],
    settings: FitSettings | None = None,
    *,
    kept_bytes: int = 2 << 30,
    left_out: Callable[[int, GroundingError], None] = lambda index, why: None,
    advance: Callable[[], None] = lambda: None,
) -> Fit:
    """Fit the gains of every head of a model.

    Args:
        vlm: the model; its weights are not changed.
        sources: the samples; one image is open at a time.
        settings: of the optimisation; the defaults where None.
        kept_bytes: budget for cached keys and values of prompts; prompts beyond it are recomputed in every pass.
        left_out: called once with the index of a sample that cannot be read, and the error; the fit continues.
        advance: called after every sample of every pass.

    Returns:
        The fitted gains, rounded to four decimals.

    Raises:
        MethodError: no sample could be read.
        ModelError: the model cannot run, for example out of memory.
    """
    settings = settings or FitSettings()
    shape = (2, 1, 1) if settings.shared else (2, vlm.layer_count, vlm.head_count)
    logs = torch.zeros(shape, device=vlm.device, requires_grad=True)
    samples = _SampleCache(vlm, sources, settings.emphasis, kept_bytes)
    rng = np.random.default_rng(settings.seed)
    steps = settings.passes * -(-len(sources) // settings.batch)
    optimiser = torch.optim.Adam([logs], lr=settings.learning_rate)
    falling = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: max(1 - step / steps, 0.0))
    failed: dict[int, str] = {}
    curve = []
    for _ in range(settings.passes):
        values: list[float] = []
        order = iter(rng.permutation([row for row in range(len(sources)) if row not in failed]).tolist())
        while rows := list(islice(order, settings.batch)):
            slopes = []
            for row in rows:
                found = attempt_one(partial(samples.likelihood, row, logs))
                if isinstance(found, GroundingError):
                    failed[row] = str(found)
                    left_out(row, found)
                else:
                    values.append(found[0])
                    slopes.append(found[1])
                advance()
            if slopes:
                logs.grad = 2 * settings.penalty * logs.detach() / logs.numel() - torch.stack(slopes).mean(0)
                optimiser.step()
                with torch.no_grad():
                    logs.clamp_(-math.log(MAX_GAIN), math.log(MAX_GAIN))
                falling.step()
        if not values:
            raise MethodError(f"none of {len(sources)} samples could be read; of the first one: {failed[min(failed)]}")
        curve.append(float(np.mean(values)))
    gains = logs.detach().exp().expand(2, vlm.layer_count, vlm.head_count).tolist()
    return Fit(HeadGains(image=_table(gains[0]), text=_table(gains[1])), *samples.digest(), tuple(curve))


class _SampleCache:
    """Evaluate samples under teacher forcing, and cache keys and values of prompts within a byte budget."""

    def __init__(self, vlm: VLM, sources: Sequence[Source], emphasis: float, kept_bytes: int) -> None:
        self._vlm, self._sources, self._emphasis, self._free = vlm, sources, emphasis, kept_bytes
        self._kept: dict[int, tuple[TeacherForcedSample, AnswerForward, Tensor]] = {}
        self._digests: dict[int, bytes] = {}

    def likelihood(self, row: int, logs: Tensor) -> tuple[float, Tensor]:
        """Return the weighted mean log-probability of a sample's answer, and its gradient by the log gains.

        Args:
            row: index of the sample.
            logs: [2, L, H] or [2, 1, 1] log gains on image and on text.

        Raises:
            ModelError: the likelihood is not finite.
        """
        vlm = self._vlm
        with explain_out_of_memory(f"fitting gains of {vlm.name}", _REMEDY), torch.enable_grad():
            forced, forward, weights = self._kept.get(row) or self._read(row)
            with apply(vlm.model, _GainEditor(forced, logs), forced.prepared.length, 1) as hooks:
                hooks.set_pass(0, forced.start)  # the prompt was read outside the block, unedited
                value = forward.log_probability(weights=weights)[0]
            (slope,) = torch.autograd.grad(value, logs)
        if not math.isfinite(value.item()):
            raise overflow(f"the likelihood by {vlm.name}", vlm.model.dtype)
        return value.item(), slope

    def digest(self) -> tuple[int, str]:
        """Return the number of samples that were read, and their SHA-256."""
        data = b"".join(self._digests[row] for row in sorted(self._digests))
        return len(self._digests), hashlib.sha256(data).hexdigest()

    def _read(self, row: int) -> tuple[TeacherForcedSample, AnswerForward, Tensor]:
        sample = self._sources[row]()
        forced = TeacherForcedSample.of(self._vlm, sample, ended=True)
        found = forced, AnswerForward(forced), _weights(forced, self._emphasis)
        self._digests[row] = sample.digest()
        if found[1].cached_bytes <= self._free:
            self._free -= found[1].cached_bytes
            self._kept[row] = found
        return found


def _weights(forced: TeacherForcedSample, emphasis: float) -> Tensor:
    """Return [T] token weights: `emphasis` for tokens of the answer's nouns, 1 for the others."""
    text, spans = spell(forced.vlm.tokenizer, forced.inputs["input_ids"][0, list(forced.targets)].tolist())
    weights = torch.ones(len(forced.targets))
    for tokens in align([phrase.noun.span for phrase in noun_phrases(text, forced.vlm.finder)], spans):
        weights[list(tokens)] = emphasis
    return weights


class _GainEditor(AnswerEditor):
    """Apply differentiable log gains to the answer's rows, equal to `HeadGains` in value."""

    def __init__(self, forced: TeacherForcedSample, logs: Tensor) -> None:
        super().__init__(forced)
        self._logs = logs

    def answer(self, layer: int, call: AttentionCall) -> RowEdit:
        """Return a logit bias of the log gains on image keys and on text keys."""
        kinds = torch.zeros(2, 1, call.key_count, device=call.query.device)
        kinds[0, :, self.image] = 1.0
        kinds[1, :, max(self.image) + 1 :] = 1.0
        own = self._logs[:, min(layer, self._logs.shape[1] - 1)].to(call.query.device)  # [2, H or 1]
        bias = (own[:, :, None, None] * kinds[:, None]).sum(0)[None]  # [1, H or 1, 1, K]
        return RowEdit(0, AttentionEdit(logit_bias=bias))


def _table(gains: list[list[float]]) -> Table:
    return tuple(tuple(round(gain, 4) for gain in row) for row in gains)
