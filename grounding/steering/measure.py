"""Measure the visual sensitivity of every head on given answers, under teacher forcing.

The measured rows are those that predict the word's tokens. Ablation removes a head's image part in all rows from the
prompt's last row up to the last measured one, the rows that a modulation with `prefill: last` edits.

- `mass`: attention on image keys that are not sinks (Kang et al., ICLR 2025), mean over the measured rows.
- `ablation`: decrease of the mean log-probability of the word's tokens when the contribution of image keys to the
  head's output is removed, without renormalising. Exact; one pass over the answer per layer and head.
- `gradient`: first-order approximation of `ablation`, <G, O_img>, with G the gradient of that log-probability by the
  head's output and O_img the contribution of image keys to it. One forward and one backward pass for all heads.
- `agreement`: fraction of the attention on image cells, sinks excluded, that lies on the object's mask; each cell is
  weighted by the fraction of it that the mask covers (energy-based pointing game, Score-CAM, arXiv 1910.01279).

Shape letters: L layers, H query heads, G query heads per key head, R measured rows, C image keys, Dv value width.

Notes:
    `mass`, `ablation` and `gradient` as measures for steering, and cells in place of pixels in `agreement`, are our
    choice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial

import numpy as np
import torch
from torch import Tensor

from grounding.attention import RowRequest, record
from grounding.attention.call import AttentionCall, AttentionEdit, RowEdit
from grounding.attention.events import Scope, Subscriber
from grounding.attention.intercept import intercept
from grounding.attention.rows import as_index, attention_rows
from grounding.attention.sinks import SINKS, SinkRule
from grounding.compat import last_logits
from grounding.errors import GroundingError, ImageError, MethodError
from grounding.faults import attempt_one
from grounding.geometry import cell_coverage
from grounding.memory import explain_out_of_memory
from grounding.models.base import VLM
from grounding.numerics import overflow
from grounding.record_spec import RecordSpec
from grounding.steering.apply import apply
from grounding.steering.modulation import refuse_cross_attention
from grounding.steering.samples import CalibrationSample, Source
from grounding.steering.sensitivity import Kind, Sensitivity
from grounding.steering.teacher_forcing import AnswerEditor, AnswerForward, TeacherForcedSample
from grounding.types import BoolArray, FloatArray

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
        sources: the samples, opened one at a time.
        kind: the measure.
        seed: of generated samples; stored in the result.
        sinks: decides which keys are sinks.
        left_out: called with the index of a sample that cannot be measured, and the error; the others are measured.
        advance: called after every sample.

    Returns:
        The mean over the measured samples, with their number and hash.

    Raises:
        MethodError: no sample could be measured.
    """
    total = np.zeros((vlm.layer_count, vlm.head_count))
    measured, data, reason = 0, hashlib.sha256(), ""
    for index, source in enumerate(sources):
        found = attempt_one(partial(_measured, vlm, source, kind, sinks))
        if isinstance(found, GroundingError):
            reason = reason or str(found)
            left_out(index, found)
        else:
            measured += 1
            total += found[0]
            data.update(found[1])
        advance()
    if measured == 0:
        raise MethodError(f"none of {len(sources)} samples could be measured; of the first one: {reason}")
    values = tuple(tuple(float(v) for v in row) for row in total / measured)
    return Sensitivity(vlm.name, kind, measured, data.hexdigest(), values, seed)


def _measured(vlm: VLM, source: Source, kind: Kind, sinks: SinkRule) -> tuple[FloatArray, bytes]:
    sample = source()
    return head_values(vlm, sample, kind, sinks=sinks), sample.digest()


def head_values(vlm: VLM, sample: CalibrationSample, kind: Kind, *, sinks: SinkRule = SINKS) -> FloatArray:
    """Measure every head of a model on one sample.

    Args:
        vlm: the model.
        sample: image, question and answer.
        kind: the measure.
        sinks: decides which keys are sinks, for `mass` and `agreement`.

    Returns:
        [L, H] float32.

    Raises:
        ExpressionError: the answer is empty or does not contain the word.
        ImageError: `agreement` is measured on a sample without a mask.
        MethodError: the model cannot be steered, so heads cannot be ablated; its image tokens are no cells, so it has
            no `agreement`; or it reads pictures by cross-attention alone.
        RecordingError: the model's attention cannot be recorded.
        ModelError: the model cannot run, for example out of memory, or a value is not finite.
    """
    refuse_cross_attention(vlm)
    with explain_out_of_memory(f"measuring heads of {vlm.name}", _REMEDY):
        forced = TeacherForcedSample.of(vlm, sample)
        if kind == "ablation":
            values = _ablation(forced)
        elif kind == "gradient":
            values = _gradient(forced)
        elif kind == "mass":
            values = _image_rows(forced, sinks).sum(-1).mean(-1)
        else:
            values = _agreement(_image_rows(forced, sinks), _covered(forced, sample.mask))
    if not bool(values.isfinite().all()):
        raise overflow(f"the {kind} of {vlm.name}", vlm.model.dtype)
    return values.float().cpu().numpy()


def mask_effects(vlm: VLM, sample: CalibrationSample) -> FloatArray:
    """Measure how much every head brings an answer from the cells of the mask.

    As `ablation`, but only the contribution of cells that the mask covers by half is removed.

    Args:
        vlm: the model.
        sample: image, question, answer and mask.

    Returns:
        [L, H] float32, decrease of the mean log-probability of the word's tokens.

    Raises:
        ImageError: there is no mask, or it covers half of no cell.
        GroundingError: otherwise as `head_values`.
    """
    refuse_cross_attention(vlm)
    with explain_out_of_memory(f"measuring heads of {vlm.name}", _REMEDY):
        forced = TeacherForcedSample.of(vlm, sample)
        image = forced.prepared.layouts[0].image
        cells = image[(_covered(forced, sample.mask) >= 0.5).numpy()].tolist()
        if not cells:
            raise ImageError("the mask covers half of no cell of the image: leave out things that small")
        values = _ablation(forced, keys=cells)
    if not bool(values.isfinite().all()):
        raise overflow(f"the effects of heads of {vlm.name}", vlm.model.dtype)
    return values.float().cpu().numpy()


def _image_rows(forced: TeacherForcedSample, sinks: SinkRule) -> Tensor:
    """Record [L, H, R, C] attention on image keys, 0 on sinks."""
    image = (tuple(forced.prepared.layouts[0].image.tolist()),)
    request = RowRequest((forced.rows,), keys=image, spec=RecordSpec(residual_sinks=True))
    model = forced.vlm.model
    with torch.inference_mode(), record(model, request) as recording:
        model(**forced.inputs, use_cache=False, logits_to_keep=last_logits())
    assert recording.residual_sinks is not None
    marked = torch.stack([sinks.sinks(phi, layer) for layer, phi in enumerate(recording.residual_sinks[0])])  # [L, C]
    return recording.prefill[0] * ~marked[:, None, None]


def _agreement(rows: Tensor, covered: Tensor) -> Tensor:
    """Compute [L, H] agreement from [L, H, R, C] attention and [C] coverage; a row without attention on cells has 0."""
    on_cells = (rows * (covered >= 0)).sum(-1)
    return ((rows * covered.clamp(min=0)).sum(-1) / on_cells.clamp(min=1e-12)).mean(-1)


def _covered(forced: TeacherForcedSample, mask: BoolArray | None) -> Tensor:
    """Compute [C] the covered fraction of each image key's cell; -1 for image keys outside all grids, to be ignored.

    Raises:
        ImageError: there is no mask, or it is empty.
        MethodError: the model's image tokens are no cells.
    """
    if forced.prepared.layouts[0].cross:
        raise MethodError(
            f"{forced.vlm.name} reads pictures by cross-attention, so its image tokens are no cells that a mask could "
            "cover: measure heads by another target, or choose another model"
        )
    if mask is None or not mask.any():
        raise ImageError("agreement needs a mask with at least one pixel of the object: give every sample its mask")
    image = forced.prepared.layouts[0].image
    shares = dict.fromkeys(image.tolist(), -1.0)
    for grid in forced.prepared.layouts[0].grids:
        cells = cell_coverage(mask, grid.shape, grid.box_xyxy)
        shares.update(zip(grid.positions.tolist(), cells.ravel().tolist(), strict=True))
    return torch.tensor([shares[position] for position in image.tolist()])


class _WithoutImage(AnswerEditor):
    """Remove the contribution of image keys from head `heads[i]` of `layer`, in copy i of the batch."""

    layer = -1
    heads: tuple[int, ...] = ()

    def answer(self, layer: int, call: AttentionCall) -> RowEdit | None:
        """Return weight factors of 0 on image keys, for one head per copy."""
        if layer != self.layer:
            return None
        factor = torch.ones(len(self.heads), len(self.heads), 1, call.key_count, device=call.query.device)
        for copy_, _ in enumerate(self.heads):
            factor[copy_, copy_, :, self.image] = 0.0
        heads = as_index(self.heads, call.query.device)
        return RowEdit(0, AttentionEdit(weight_scale=(heads, factor)))


class _ImageParts(AnswerEditor):
    """Store the contribution of image keys to each head's output."""

    def __init__(self, forced: TeacherForcedSample) -> None:
        super().__init__(forced)
        self.parts: dict[int, Tensor] = {}
        """Layer → [R, H, Dv] float32."""

    def answer(self, layer: int, call: AttentionCall) -> None:
        """Store the layer's contributions, and edit nothing."""
        rows = torch.arange(call.query_count, device=call.query.device)
        weights = attention_rows(call, 0, rows)[..., self.image]  # [H, R, C]
        value = call.value[0][:, self.image].float()  # [H/G, C, Dv]
        value = value.repeat_interleave(len(weights) // len(value), dim=0)
        self.parts[layer] = torch.matmul(weights, value).transpose(0, 1).detach()


class _HeadOutputs(Subscriber):
    """Append the heads' outputs [1, Q, H * Dv] of every layer to a list, in order."""

    def __init__(self, outputs: list[Tensor]) -> None:
        self._outputs = outputs

    def gate(self, layer: int, outputs: Tensor) -> None:
        self._outputs.append(outputs)


def _ablation(forced: TeacherForcedSample, at_once: int = 16, keys: list[int] | None = None) -> Tensor:
    """Compute [L, H]; `at_once` heads are ablated in one batch, each in its own copy.

    Image keys are ablated, or those in `keys` alone.
    """
    editor, vlm = _WithoutImage(forced), forced.vlm
    if keys is not None:
        editor.image = keys
    values = torch.zeros(vlm.layer_count, vlm.head_count)
    with torch.no_grad(), apply(vlm.model, editor, forced.prepared.length, 1):
        forward = AnswerForward(forced)
        whole = forward.log_probability()
        for layer in vlm.row_layers:
            for first in range(0, vlm.head_count, at_once):
                editor.layer, editor.heads = layer, tuple(range(first, min(first + at_once, vlm.head_count)))
                values[layer, list(editor.heads)] = (whole - forward.log_probability(len(editor.heads))).cpu()
    return values


def _gradient(forced: TeacherForcedSample) -> Tensor:
    """Compute [L, H] on the unedited model; the editor only stores contributions."""
    editor, vlm = _ImageParts(forced), forced.vlm
    outputs: list[Tensor] = []
    with ExitStack() as stack:
        stack.enter_context(torch.enable_grad())
        stack.enter_context(apply(vlm.model, editor, forced.prepared.length, 1))
        forward = AnswerForward(forced, differentiable=True)
        stack.enter_context(intercept(vlm.model, _HeadOutputs(outputs), Scope(gates=vlm.row_layers)))
        gradients = torch.autograd.grad(forward.log_probability()[0], outputs)
    values = torch.zeros(vlm.layer_count, vlm.head_count)
    for layer, gradient in zip(vlm.row_layers, gradients, strict=True):
        part = editor.parts[layer].to(gradient.device)  # [R, H, Dv]
        values[layer] = (gradient[0].float().view_as(part) * part).sum((0, 2)).cpu()
    return values
