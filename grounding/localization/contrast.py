"""Score every head by what changes in it when the words name something else in the same picture.

After Few Contrastive Heads (TMLR submission of March 2026, read from its abstract): two prompts, one for the target and
one for something else; the difference of the residual streams is projected through each head's output matrix; heads are
ranked by four scores.

With Delta the difference of the last layer's outputs at the prompt's last row, o_h a head's output there and W_h its
part of the output matrix, c_h = W_h (o_h(target) - o_h(other)) is what the head adds to Delta. Shape letters: L layers,
H heads, Dv value width, E residual width.

Notes:
    The four scores are not in the abstract. Ours: the head's part of the difference <c_h, Delta> / <Delta, Delta>; its
    direction, the cosine of c_h and Delta; its size |c_h|; and how far its map on the image moves, half the sum of the
    absolute differences of the two normalised rows. Heads are compared by their mean rank over the four.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from grounding.attention.events import Scope, Subscriber
from grounding.attention.intercept import intercept
from grounding.attention.introspect import output_projection
from grounding.errors import ExpressionError, MethodError
from grounding.localization.ranking import mean_rank
from grounding.localization.samples import HeadSample
from grounding.localization.scores import Row, row_of
from grounding.maps.base import image_columns
from grounding.models.base import VLM
from grounding.record_spec import RecordSpec
from grounding.types import AttentionMaps, FloatArray

_LEAST = 1e-12


class _LastOutputs(Subscriber):
    """Keep every layer's heads' outputs [2, H * Dv] at the last row."""

    def __init__(self) -> None:
        self.outputs: dict[int, Tensor] = {}

    def gate(self, layer: int, outputs: Tensor) -> None:
        self.outputs[layer] = outputs[:, -1].detach().float()


def contrast_scores(vlm: VLM, sample: HeadSample, row: Row) -> tuple[FloatArray, AttentionMaps]:
    """Score every head on one sample.

    Args:
        vlm: the model.
        sample: with an `other` expression.
        row: the row of the maps whose movement is measured.

    Returns:
        [L, H] float32 in [0, 1], the mean rank over the four scores, of the maps' layers; and the maps of the target's
        words.

    Raises:
        ExpressionError: there is no other expression.
        MethodError: the model reads pictures by cross-attention.
        RecordingError: the model's attention cannot be recorded, or its output matrices are not found.
    """
    if not sample.other:
        raise ExpressionError(
            "a contrast of heads needs another expression for the same picture: give every line of the data an 'other'"
        )
    if vlm.map_attention == "cross":
        raise MethodError(
            f"{vlm.name} reads pictures by cross-attention, whose heads' outputs are gated once more, so what a head "
            "adds is not known from them: rank its heads by another rule"
        )
    kept, last = _LastOutputs(), {}

    def leaving(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        states = output[0] if isinstance(output, tuple) else output
        last["out"] = states[:, -1].detach().float()

    layers = vlm.decoder.layers
    hook = layers[-1].register_forward_hook(leaving)
    try:
        with torch.inference_mode(), intercept(vlm.model, kept, Scope(gates=vlm.row_layers)):
            target, other = vlm.maps([sample.image] * 2, [sample.expression, sample.other], RecordSpec())
    finally:
        hook.remove()
    delta = last["out"][0] - last["out"][1]
    parts = torch.stack([_parts(vlm, layers[i], kept.outputs[i]) for i in target.layers])  # [L, H, E]
    dots = (parts * delta.to(parts.device)).sum(-1)
    sizes = parts.norm(dim=-1)
    part = dots / delta.square().sum().clamp(min=_LEAST)
    direction = dots / (sizes * delta.norm()).clamp(min=_LEAST)
    tables = [table.cpu().numpy() for table in (part, direction, sizes)]
    return mean_rank([*tables, _movement(target, other, row)]).astype(np.float32), target


def _parts(vlm: VLM, layer: nn.Module, outputs: Tensor) -> Tensor:
    """What each head adds to the difference, [H, E] on the CPU."""
    weight = output_projection(layer).weight.detach().float()  # type: ignore[operator]  # a linear layer's
    change = (outputs[0] - outputs[1]).view(vlm.head_count, -1)  # [H, Dv]
    matrix = weight.view(weight.shape[0], vlm.head_count, -1).to(change.device)  # [E, H, Dv]
    return torch.einsum("ehd,hd->he", matrix, change).cpu()


def _movement(target: AttentionMaps, other: AttentionMaps, row: Row) -> FloatArray:
    """How far each head's map moves, [L, H] in [0, 1]."""
    rows = []
    for maps in (target, other):
        cells = row_of(maps, row)[..., image_columns(maps)]
        total = cells.sum(axis=-1, keepdims=True)
        rows.append(np.divide(cells, total, out=np.zeros_like(cells), where=total > 0))
    return 0.5 * np.abs(rows[0] - rows[1]).sum(axis=-1)
