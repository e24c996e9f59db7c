"""Four measures of how much a head sees, on given answers (the first three are ours, after what steering changes).

All of them look at the rows that the word's tokens are predicted from, or, where a head is taken away, at all rows from
the prompt's last one up to there, as a modulation of the last prompt row and of generated tokens would change them.

- `mass`: the row's attention on image keys that are no sinks (Kang et al., ICLR 2025).
- `ablation`: how far the mean log-probability of the word's tokens falls when the head loses what image keys bring to
  its output, weights not renormalised. Exact; one pass over the answer per layer and head.
- `gradient`: the same to first order, <G, O_vis>, with G the gradient of that log-probability by the head's output and
  O_vis the image keys' part of the output. One pass and one backward pass for all heads.
- `agreement`: share of the attention on image cells that are no sinks which lies on the object's mask; a cell counts by
  how much of it the mask covers (the energy-based pointing game of Score-CAM, arXiv 1910.01279, on cells).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import ExitStack

import numpy as np
import torch
from torch import Tensor

from grounding.attention import RowRequest, record
from grounding.attention.call import AttentionCall, AttentionEdit, RowEdit
from grounding.attention.events import Scope, Subscriber
from grounding.attention.intercept import intercept
from grounding.attention.rows import as_index, attention_rows
from grounding.attention.sinks import SINKS, SinkRule
from grounding.errors import GroundingError, ImageError, MethodError
from grounding.geometry import cell_coverage
from grounding.memory import explain_out_of_memory
from grounding.models.base import VLM
from grounding.steering.apply import apply
from grounding.steering.samples import CalibrationSample, Source
from grounding.steering.sensitivity import Kind, Sensitivity
from grounding.steering.teacher_forcing import AnswerEditor, AnswerForward, TeacherForcedSample
from grounding.types import BoolArray, FloatArray, RecordSpec

_REMEDY = "use a smaller picture, a shorter answer, --dtype bfloat16, or a smaller model"


def calibrate(
    vlm: VLM,
    sources: Sequence[Source],
    kind: Kind,
    *,
    seed: int | None = None,
    sinks: SinkRule = SINKS,
    left_out: Callable[[int, GroundingError], None] = lambda index, why: None,
    advance: Callable[[], None] = lambda: None,
) -> Sensitivity:
    """Measure every head of a model on a set of samples.

    Args:
        vlm: the model.
        sources: the samples, opened one after the other.
        kind: the measure.
        seed: of drawn samples, for the record.
        sinks: which keys are sinks.
        left_out: told the index of a sample that cannot be measured, and why; the others go on.
        advance: called after every sample.

    Returns:
        The mean over the samples that could be measured, with their number and hash.

    Raises:
        MethodError: no sample could be measured.
    """
    total = np.zeros((vlm.layer_count, vlm.head_count))
    measured, data, reason = 0, hashlib.sha256(), ""
    for index, source in enumerate(sources):
        try:
            sample = source()
            total += head_values(vlm, sample, kind, sinks=sinks)
        except GroundingError as why:
            reason = reason or str(why)
            left_out(index, why)
        else:
            measured += 1
            data.update(sample.digest())
        advance()
    if measured == 0:
        raise MethodError(f"none of {len(sources)} samples could be measured; of the first one: {reason}")
    values = tuple(tuple(float(v) for v in row) for row in total / measured)
    return Sensitivity(vlm.name, kind, measured, data.hexdigest(), values, seed)


def head_values(vlm: VLM, sample: CalibrationSample, kind: Kind, *, sinks: SinkRule = SINKS) -> FloatArray:
    """One measure on one sample.

    Args:
        vlm: the model.
        sample: what is read.
        kind: the measure.
        sinks: which keys are sinks, for `mass` and `agreement`.

    Returns:
        [L, H] float32.

    Raises:
        ExpressionError: the sample's words cannot be read.
        ImageError: `agreement` has no mask to agree with.
        MethodError: this model cannot be steered, so heads cannot be taken away from it.
        RecordingError: this model's attention cannot be recorded.
        ModelError: out of memory, among others.
    """
    with explain_out_of_memory(f"measuring heads of {vlm.name}", _REMEDY):
        reading = TeacherForcedSample.of(vlm, sample)
        if kind == "ablation":
            values = _ablation(reading)
        elif kind == "gradient":
            values = _gradient(reading)
        elif kind == "mass":
            values = _image_rows(reading, sinks).sum(-1).mean(-1)
        else:
            values = _agreement(_image_rows(reading, sinks), _covered(reading, sample.mask))
    return values.float().cpu().numpy()


def _image_rows(reading: TeacherForcedSample, sinks: SinkRule) -> Tensor:
    """[L, H, R, C] attention on image keys, 0 on sinks."""
    image = (tuple(reading.prepared.layouts[0].image.tolist()),)
    request = RowRequest((reading.rows,), keys=image, spec=RecordSpec(residual_sinks=True))
    model = reading.vlm.model
    with torch.inference_mode(), record(model, request) as recording:
        model(**reading.inputs, use_cache=False, logits_to_keep=1)
    assert recording.residual_sinks is not None
    marked = torch.stack([sinks.sinks(phi, layer) for layer, phi in enumerate(recording.residual_sinks[0])])  # [L, C]
    return recording.prefill[0] * ~marked[:, None, None]


def _agreement(rows: Tensor, covered: Tensor) -> Tensor:
    """[L, H] from [L, H, R, C] attention and [C] shares; a row without attention on cells agrees with nothing."""
    on_cells = (rows * (covered >= 0)).sum(-1)
    return ((rows * covered.clamp(min=0)).sum(-1) / on_cells.clamp(min=1e-12)).mean(-1)


def _covered(reading: TeacherForcedSample, mask: BoolArray | None) -> Tensor:
    """[C] per image key the share of its cell on the mask; -1 for keys that are no cells, which are left out."""
    if mask is None or not mask.any():
        raise ImageError("agreement needs a mask with at least one pixel of the object: give every sample its mask")
    image = reading.prepared.layouts[0].image
    shares = dict.fromkeys(image.tolist(), -1.0)
    for grid in reading.prepared.layouts[0].grids:
        cells = cell_coverage(mask, grid.shape, grid.box_xyxy)
        shares.update(zip(grid.positions.tolist(), cells.ravel().tolist(), strict=True))
    return torch.tensor([shares[position] for position in image.tolist()])


class _WithoutImage(AnswerEditor):
    """In copy i of the batch, head `heads[i]` of `layer` takes nothing from image keys."""

    layer = -1
    heads: tuple[int, ...] = ()

    def answer(self, layer: int, call: AttentionCall) -> RowEdit | None:
        """Factors of 0, one head a copy."""
        if layer != self.layer:
            return None
        factor = torch.ones(len(self.heads), len(self.heads), 1, call.key_count, device=call.query.device)
        for copy_, _ in enumerate(self.heads):
            factor[copy_, copy_, :, self.image] = 0.0
        heads = as_index(self.heads, call.query.device)
        return RowEdit(0, AttentionEdit(weight_scale=(heads, factor)))


class _ImageParts(AnswerEditor):
    """Keeps what image keys bring to each head's output."""

    def __init__(self, reading: TeacherForcedSample) -> None:
        super().__init__(reading)
        self.parts: dict[int, Tensor] = {}
        """Layer → [R, H, Dv] float32."""

    def answer(self, layer: int, call: AttentionCall) -> None:
        """Look, and change nothing."""
        rows = torch.arange(call.query_count, device=call.query.device)
        weights = attention_rows(call, 0, rows)[..., self.image]  # [H, R, C]
        value = call.value[0][:, self.image].float()  # [H/G, C, Dv]
        value = value.repeat_interleave(len(weights) // len(value), dim=0)
        self.parts[layer] = torch.matmul(weights, value).transpose(0, 1).detach()


class _HeadOutputs(Subscriber):
    """Collects the heads' outputs of every layer, in order."""

    def __init__(self, outputs: list[Tensor]) -> None:
        self._outputs = outputs

    def gate(self, layer: int, outputs: Tensor) -> None:
        self._outputs.append(outputs)


def _ablation(reading: TeacherForcedSample, at_once: int = 16) -> Tensor:
    """[L, H]; `at_once` heads are taken away in one batch, each from its own copy."""
    plan, vlm = _WithoutImage(reading), reading.vlm
    values = torch.zeros(vlm.layer_count, vlm.head_count)
    with torch.no_grad(), apply(vlm.model, plan, reading.prepared.length, 1):
        tail = AnswerForward(reading)
        whole = tail.log_probability()
        for layer in range(vlm.layer_count):
            for first in range(0, vlm.head_count, at_once):
                plan.layer, plan.heads = layer, tuple(range(first, min(first + at_once, vlm.head_count)))
                values[layer, list(plan.heads)] = (whole - tail.log_probability(len(plan.heads))).cpu()
    return values


def _gradient(reading: TeacherForcedSample) -> Tensor:
    """[L, H]; the gradient is of the model as it is, since the plan only looks."""
    plan, vlm = _ImageParts(reading), reading.vlm
    outputs: list[Tensor] = []
    with ExitStack() as stack:
        stack.enter_context(torch.enable_grad())
        stack.enter_context(apply(vlm.model, plan, reading.prepared.length, 1))
        tail = AnswerForward(reading, differentiable=True)
        stack.enter_context(intercept(vlm.model, _HeadOutputs(outputs), Scope(gates=range(vlm.layer_count))))
        gradients = torch.autograd.grad(tail.log_probability()[0], outputs)
    values = []
    for number, gradient in enumerate(gradients):
        part = plan.parts[number].to(gradient.device)  # [R, H, Dv]
        values.append((gradient[0].float().view_as(part) * part).sum((0, 2)).cpu())
    return torch.stack(values)
