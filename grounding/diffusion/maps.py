"""Attention maps from recordings of a diffusion transformer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from grounding.attention.joint import JointRecording, JointRequest, Table
from grounding.diffusion.reading import MapReading
from grounding.diffusion.sequence import Placement
from grounding.errors import ModelError, RecordingError
from grounding.layout import ImageGrid
from grounding.record_spec import RecordSpec
from grounding.types import AttentionMaps, Direction, Word

_TABLES: dict[Direction, Table] = {"image-to-word": "image-to-text", "word-to-image": "text-to-image"}


def request_for(
    placement: Placement, reading: MapReading, spec: RecordSpec, *, element: int = 0, batch: int = 1, mean: bool = True
) -> JointRequest:
    """The request for the maps of all text tokens over all cells; outputs have the direction image-to-word.

    Args:
        placement: positions.
        reading: direction and order.
        spec: layers, heads, reductions, text-to-text and budget.
        element: recorded element of the transformer's batch.
        batch: elements of that batch.
        mean: average all passes.

    Raises:
        ModelError: text has no queries and no outputs in cross attention, or text-to-text is asked for with outputs.
        RecordingError: the spec asks for what a diffusion transformer does not have.
    """
    for asked, what in ((spec.features, "features of a vision tower"), (spec.logits, "logits of words")):
        if asked:
            raise RecordingError(
                f"a diffusion transformer has no {what}: leave out the stage that reads them, or use a vision-language "
                "model"
            )
    if spec.readout is not None and spec.readout.what == "outputs":
        tables: tuple[Table, ...] = ("outputs",)
        if not placement.joint:
            raise ModelError(
                "in cross attention text tokens are keys alone and have no attention outputs: choose a method that "
                "reads attention, such as daam"
            )
        if spec.text_to_text:
            raise ModelError(
                "attention between words was asked for by a method that reads attention outputs: leave the stage "
                "'text-sinks' out, or write 'what: attention' in the method's readout"
            )
    else:
        tables = (_TABLES[reading.direction],)
    if spec.text_to_text:
        tables = (*tables, "text-to-text")
    if not placement.joint and tables != ("image-to-text",):
        raise ModelError(
            "in cross attention text tokens are keys alone, so only maps in the direction image-to-word exist: read "
            "with direction='image-to-word', leave out stages that need text-to-text attention, and write 'between: 0' "
            "in the stage 'text-sinks'"
        )
    return JointRequest(
        cells=placement.cells,
        text=placement.text,
        tables=tables,
        order=reading.order,
        spec=spec,
        element=element,
        batch=batch,
        mean=mean,
    )


def joint_maps(
    recordings: Sequence[JointRecording],
    request: JointRequest,
    words: tuple[Word, ...],
    placement: Placement,
    grids: tuple[ImageGrid, ...],
    layer_count: int,
) -> AttentionMaps:
    """Maps of words from maps of tokens, the recordings' passes one after the other on the step axis.

    A word's weight as a key is the sum over its tokens, so that a cell's words sum to what its tokens do; as a query it
    is their mean.

    Args:
        recordings: at least one, all of one request.
        request: what was recorded.
        words: words that own every recorded token once.
        placement: positions.
        grids: the image's grids.
        layer_count: L of the model.
    """
    column = {position: i for i, position in enumerate(placement.word_positions)}
    member = torch.zeros(len(words), len(column))
    for row, word in enumerate(words):
        member[row, [column[p] for p in word.positions]] = 1
    average = member / member.sum(dim=1, keepdim=True).clamp(min=1)

    def joined(name: Table) -> Tensor:
        return torch.cat([recording.table(name) for recording in recordings])

    table = request.tables[0]
    if table != "text-to-image":
        values = torch.einsum("slhxt,wt->slhwx", joined(table), member)
        direction: Direction = "image-to-word"
    else:
        values = torch.einsum("slhtx,wt->slhwx", joined(table), average)
        direction = "word-to-image"
    between = None
    if "text-to-text" in request.tables:
        between = torch.einsum("slhqk,wq,vk->slhwv", joined("text-to-text"), average, member).numpy()
    return AttentionMaps(
        values=values.contiguous().numpy(),
        layers=() if request.reduces_layers else recordings[0].layers,
        words=words,
        keys=np.asarray(placement.cells, np.int64),
        grids=grids,
        image_size=(round(grids[0].box_xyxy[2]), round(grids[0].box_xyxy[3])),
        direction=direction,
        layer_count=layer_count,
        text_to_text=between,
    )
