"""Read attention inside the vision tower, per image cell: from the class token, and received from all other tokens.

The tower runs once more with its own kernel; the needed rows are recomputed from the queries and keys of its calls.

Notes:
    A tower without attention, such as a convolutional one, is replaced by the language model: cells get the attention
    that their keys receive from the instruction's rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from grounding.attention.call import AttentionCall
from grounding.attention.events import Scope, Subscriber, without_edits
from grounding.attention.intercept import intercept
from grounding.attention.introspect import LayerStack, tower_stack, vision_tower
from grounding.attention.recorder import record
from grounding.attention.request import RowRequest
from grounding.attention.rows import attention_rows, iter_rows
from grounding.compat import last_logits
from grounding.errors import MethodError
from grounding.record_spec import RecordSpec
from grounding.steering.base import GenerationContext
from grounding.types import FloatArray

PIXELS = ("image_pixel_values", "pixel_values")
"""Inputs by which models take the pixels of pictures; the first of them that a model has."""


@dataclass(frozen=True)
class CellAttention:
    """Hold the attention of one tower layer to the cells of one image, in the order of its grids' positions.

    Attributes:
        by_class: [cells] attention from the class token, summed over heads; None for towers without a class token.
        received: [cells] attention from all other tokens, averaged over heads and summed over tokens.
    """

    by_class: FloatArray | None
    received: FloatArray

    @property
    def informative(self) -> FloatArray:
        """Attention from the class token where there is one, else received attention."""
        return self.received if self.by_class is None else self.by_class


def cell_attention(context: GenerationContext, layer: int) -> list[CellAttention]:
    """Run the vision tower once and read one layer.

    Args:
        context: the batch.
        layer: layer of the tower, or of the language model for a tower without attention; negative values count from
            the end.

    Returns:
        One per element.

    Raises:
        MethodError: the layer does not exist, the tower's attention calls cannot be observed, or the batch has no
            pictures but clips.
    """
    tower = vision_tower(context.vlm.model)
    stack = tower_stack(tower)
    if stack is None:
        return _in_decoder(context, layer)
    count = len(stack.layers)
    index = layer + count if layer < 0 else layer
    if not 0 <= index < count:
        raise MethodError(f"layer {layer} of the vision tower does not exist: it has {count}")
    calls = _calls_of(context, stack, index)
    if not calls:
        raise MethodError(
            f"{type(tower).__name__} makes no attention call that can be listened to: load the model with "
            "attn_implementation='sdpa'"
        )
    cells = [len(layout.cells) for layout in context.prepared.layouts]
    with torch.no_grad():
        if calls[0].query.shape[0] == len(cells) and calls[0].key_count in (max(cells), max(cells) + 1):
            return [_of_image(calls[0], element, count) for element, count in enumerate(cells)]
        return _of_windows(context, tower, calls, cells)


def pixels_name(inputs: Mapping[str, Tensor], method: str) -> str:
    """The name of the input by which a model takes the pixels of pictures.

    Args:
        inputs: the model's inputs.
        method: what reads them, as the subject of the error's sentence.

    Raises:
        MethodError: there is none, as for clips, which most models take by another input.
    """
    for name in PIXELS:
        if name in inputs:
            return name
    raise MethodError(
        f"{method} needs {' or '.join(PIXELS)}, but the model takes no pixels of pictures but "
        f"{', '.join(inputs)}: give pictures, not clips, or choose another method"
    )


class _Calls(Subscriber):
    """Store every observed call."""

    def __init__(self) -> None:
        self.calls: list[AttentionCall] = []

    def observe(self, layer: int, call: AttentionCall, output: Tensor) -> None:
        self.calls.append(call)


def _calls_of(context: GenerationContext, stack: LayerStack, index: int) -> list[AttentionCall]:
    """Run the tower on the batch's images and return the attention calls of one layer."""
    kept = _Calls()
    inputs = context.prepared.inputs
    name = pixels_name(inputs, "attention inside the vision tower")
    options = {name: inputs[name] for name in ("image_grid_thw", "image_sizes") if name in inputs}
    with torch.no_grad(), intercept(context.vlm.model, kept, Scope(calls=(index,)), stack=stack):
        context.vlm.model.get_image_features(**{name: inputs[name]}, **options)
    return kept.calls


def _of_image(call: AttentionCall, element: int, cells: int) -> CellAttention:
    """Read one image of a tower with one batch element per image; a first key beyond the cells is the class token."""
    extra = call.key_count - cells
    rows = torch.arange(extra, call.query_count, device=call.query.device)
    received = _column_sums(call, element, rows)[extra:]
    by_class = None
    if extra:
        by_class = attention_rows(call, element, rows.new_zeros(1))[:, 0, 1:].sum(0).cpu().numpy()
    return CellAttention(by_class, received.cpu().numpy())


def _column_sums(call: AttentionCall, element: int, rows: Tensor) -> Tensor:
    """Sum chosen rows [R] per key: [K] float32, averaged over heads."""
    total = torch.zeros(call.key_count, device=call.query.device)
    for _, weights in iter_rows(call, element, rows):
        total += weights.mean(0).sum(0)
    return total


def _of_windows(
    context: GenerationContext, tower: Any, calls: list[AttentionCall], cells: list[int]
) -> list[CellAttention]:
    """Read a tower that attends in windows over all images at once and merges patches afterwards, as Qwen2.5-VL's.

    Raises:
        MethodError: patches and cells do not correspond.
    """
    from transformers.vision_utils import get_vision_window_index

    sums = [_column_sums(call, 0, torch.arange(call.query_count, device=call.query.device)) for call in calls]
    patches = torch.cat(sums)
    merged = int(getattr(tower, "spatial_merge_size", 1)) ** 2
    if len(patches) != merged * sum(cells) or not hasattr(tower, "window_size"):
        raise MethodError(
            f"{type(tower).__name__} attends over {len(patches)} patches for {sum(cells)} cells, so they cannot be "
            "told apart"
        )
    order, _ = get_vision_window_index(
        context.prepared.inputs["image_grid_thw"], tower.spatial_merge_size, tower.window_size, tower.patch_size
    )
    scores = patches.view(-1, merged).sum(1)[torch.argsort(order.to(patches.device))]
    return [CellAttention(None, part.cpu().numpy()) for part in scores.split(cells)]


def _in_decoder(context: GenerationContext, layer: int) -> list[CellAttention]:
    """Record the attention of the instruction's rows to image cells in one layer of the language model.

    Raises:
        MethodError: the layer does not exist.
    """
    count = context.vlm.layer_count
    index = layer + count if layer < 0 else layer
    if not 0 <= index < count:
        raise MethodError(
            f"layer {layer} does not exist: the tower has no attention and the language model {count} layers"
        )
    queries = tuple(tuple(layout.instruction.tolist()) for layout in context.prepared.layouts)
    keys = tuple(tuple(int(p) for grid in layout.grids for p in grid.positions) for layout in context.prepared.layouts)
    request = RowRequest(queries, keys=keys, spec=RecordSpec(layers=(index,), reduce="heads"))
    with without_edits(), torch.no_grad(), record(context.vlm.model, request) as recording:
        context.vlm.model(**context.prepared.inputs, logits_to_keep=last_logits())
    return [CellAttention(None, np.asarray(rows[0, 0].sum(0).numpy())) for rows in recording.prefill]
