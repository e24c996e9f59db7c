"""Attention maps from a recorded forward pass over a prompt."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import nn

from grounding.attention.recorder import record
from grounding.attention.request import RowRequest
from grounding.compat import last_logits
from grounding.errors import RecordingError
from grounding.layout import TokenLayout
from grounding.memory import explain_out_of_memory
from grounding.models.cell_rows import CellRows, cell_rows
from grounding.models.qformer import query_weights
from grounding.numerics import refuse_overflow
from grounding.record_spec import Attention, RecordSpec
from grounding.types import AttentionMaps, Word

if TYPE_CHECKING:
    from grounding.attention.introspect import LayerStack
    from grounding.attention.request import Recording
    from grounding.models.prepared import Prepared

_REMEDY = "use fewer pictures per batch, smaller pictures, shorter texts, --dtype bfloat16, or a smaller model"


class Recordable(Protocol):
    """What a recording needs of a `VLM`."""

    model: Any
    name: str

    @property
    def decoder(self) -> Any:
        """The language model's module whose `.layers` are the decoder blocks."""
        ...

    @property
    def projector(self) -> nn.Module | None:
        """See `VLM.projector`."""
        ...

    @property
    def query_reader(self) -> LayerStack | None:
        """See `VLM.query_reader`."""
        ...

    @property
    def image_token_id(self) -> int:
        """The id of an image token."""
        ...

    @property
    def layer_count(self) -> int:
        """L, decoder layers."""
        ...

    @property
    def map_attention(self) -> Attention:
        """See `VLM.map_attention`."""
        ...

    def layers_without(self, attention: Attention) -> tuple[int, ...]:
        """Layers without weights of a kind of attention."""
        ...

    def with_rows(self, layers: Iterable[int], attention: Attention = "softmax") -> tuple[int, ...]:
        """Those of some layers that have weights of a kind of attention."""
        ...


@dataclass(frozen=True)
class RecordedPass:
    """One forward pass over a batch, with the rows of its words.

    Attributes:
        recording: the rows.
        request: what was recorded.
        layouts: per element the layout of its sequence.
        layer_count: L of the model, also where fewer layers were recorded.
        cells: what the picture's cells carried.
        skipped_layers: layers of the model without weights of the recorded kind.
        read: per element [Q, K] what each of its image tokens reads of the picture's keys; None where image tokens are
            cells.
        without_residuals: residual sinks are asked for of keys that have no residual stream, so that none is one.
    """

    recording: Recording
    request: RowRequest
    layouts: tuple[TokenLayout, ...]
    layer_count: int
    cells: CellRows
    skipped_layers: tuple[int, ...] = ()
    read: Sequence[torch.Tensor] | None = None
    without_residuals: bool = False

    def maps(self, element: int, words: tuple[Word, ...], picture: int = 0) -> AttentionMaps:
        """The maps of some of one element's words over one of its pictures.

        A word of several tokens is the mean of its tokens' rows.

        Args:
            element: index in the batch.
            words: words whose tokens are among the recorded queries.
            picture: which picture of the element's prompt.

        Notes:
            Averaging a word's tokens is our choice; the papers' words are single tokens.
        """
        layout, request, recording = self.layouts[element], self.request, self.recording
        row_of = {position: row for row, position in enumerate(request.queries[element])}
        rows = recording.prefill[element]  # [L, H, R, K]
        groups = [[row_of[position] for position in word.positions] for word in words]
        keys = layout.keys_of_picture(picture)
        columns = np.searchsorted(layout.keys, keys)
        values = torch.stack([rows[:, :, group].mean(dim=2) for group in groups], dim=2)  # [L, H, T, image tokens]
        values = values[..., columns] if self.read is None else values @ self.read[element][:, keys]  # [L, H, T, K]
        statistics = recording.head_statistics[element] if request.spec.head_statistics else {}
        sinks = None if recording.residual_sinks is None else recording.residual_sinks[element].numpy()[:, columns]
        if self.without_residuals:
            sinks = np.zeros((len(values), len(keys)), np.float32)
        logits = self.cells.logits(element, words)
        return AttentionMaps(
            values=values[None].numpy(),  # one step
            layers=() if request.reduces_layers else recording.layers,
            words=words,
            keys=keys,
            grids=tuple(grid for grid in layout.grids if grid.picture == picture),
            image_size=layout.image_sizes[picture],
            signed=request.spec.attention == "linear",
            layer_count=self.layer_count,
            skipped_layers=self.skipped_layers,
            head_statistics={name: table.numpy() for name, table in statistics.items()},
            residual_sinks=sinks,
            features=self.cells.features[element].numpy()[columns] if self.cells.features else None,
            logits=None if logits is None else logits.numpy()[:, columns],
            flow=request.spec.flow,
        )


def record_maps(vlm: Recordable, prepared: Prepared, spec: RecordSpec) -> list[AttentionMaps]:
    """Run the model once and record the rows of the batch's words over all image tokens.

    Args:
        vlm: the model.
        prepared: the batch, from the same model.
        spec: what to record. Its background is not recorded here; see `grounding.source.Backgrounds`.

    Returns:
        One maps object per picture, by element and then in the order of its prompt, the words in the order of
        `prepared.words`.

    Raises:
        BudgetError: the rows need more bytes than the spec allows.
        RecordingError: this model's attention cannot be recorded.
        ModelError: out of memory, or an output that is not finite.
    """
    found = record_pass(vlm, prepared.inputs, prepared.layouts, prepared.words, spec)
    return [
        found.maps(element, words, picture)
        for element, words in enumerate(prepared.words)
        for picture in range(len(prepared.layouts[element].image_sizes))
    ]


def record_pass(
    vlm: Recordable,
    inputs: Mapping[str, torch.Tensor],
    layouts: tuple[TokenLayout, ...],
    words: Sequence[Sequence[Word]],
    spec: RecordSpec,
) -> RecordedPass:
    """Run one forward pass and record the rows of words over all image tokens.

    Args:
        vlm: the model.
        inputs: tensors by the model's argument names.
        layouts: per element the layout of its sequence.
        words: per element the words whose tokens are the queries.
        spec: what to record. Layers without weights of its kind of attention are left out.

    Raises:
        BudgetError, RecordingError, ModelError: see `record_maps`. RecordingError also where cells are keys of
            cross-attention and the spec asks for what tokens of the sequence have.
        MethodError: no layer of the spec has weights of its kind of attention.
    """
    bare = any(layout.cross for layout in layouts)
    without_residuals = bare and spec.residual_sinks
    if bare:
        _refuse_of_tokens(vlm, spec)
        spec = replace(spec, residual_sinks=False)
    if spec.attention == "softmax":
        spec = replace(spec, attention=vlm.map_attention)
    skipped = vlm.layers_without(spec.attention)
    if skipped:
        wanted = range(vlm.layer_count) if spec.layers is None else spec.layers
        spec = replace(spec, layers=vlm.with_rows(wanted, spec.attention))
    request, reader = row_request(layouts, words, spec), vlm.query_reader
    with (
        torch.inference_mode(),
        explain_out_of_memory(f"running {vlm.name}", _REMEDY),
        cell_rows(vlm, inputs, layouts, spec) as cells,
        nullcontext() if reader is None else query_weights(vlm.model, reader) as weights,
        record(vlm.model, request) as recording,
    ):
        logits = vlm.model(**inputs, use_cache=False, logits_to_keep=last_logits()).logits
    refuse_overflow(logits, vlm.name)
    read = None if weights is None else weights.read
    return RecordedPass(recording, request, layouts, vlm.layer_count, cells, skipped, read, without_residuals)


def _refuse_of_tokens(vlm: Recordable, spec: RecordSpec) -> None:
    """Refuse to record what cells have only where they are tokens of the sequence."""
    flow = spec.flow is not None and vlm.map_attention == "cross"
    asked = (("logits at cells", spec.logits), ("attention flow", flow))
    for what, given in asked:
        if given:
            raise RecordingError(
                f"{vlm.name} reads its pictures by cross-attention, so cells are no tokens of its language model and "
                f"have no {what}: leave out the stage that reads them, or choose another model"
            )


def row_request(layouts: Sequence[TokenLayout], words: Sequence[Sequence[Word]], spec: RecordSpec) -> RowRequest:
    """The request for the rows of words over all image tokens.

    Args:
        layouts: per element the layout of its sequence.
        words: per element the words whose tokens are the queries; words may share positions.
        spec: layers, heads, reductions, statistics and budget.

    Raises:
        RecordingError: the spec has magnets, edits sinks, or reads outputs or noise levels.
    """
    if spec.sinks is not None or spec.readout is not None:
        asked = "a readout" if spec.sinks is None else "an edit of text sinks"
        raise RecordingError(
            f"the method has {asked}, which a diffusion transformer has a meaning for and a vision-language model has "
            "not: choose another method, or a diffusion transformer"
        )
    if spec.magnets is not None:
        raise RecordingError(
            "magnets share a cell's attention with the expression, and in a vision-language model cells do not attend "
            "to words: leave the stage 'magnets' out, or use a diffusion transformer"
        )
    # Of a model that reads pictures through query tokens, rows are over these.
    keys = [layout.keys if spec.attention == "cross" else layout.image for layout in layouts]
    image = tuple(tuple(own.tolist()) for own in keys)
    return RowRequest(
        queries=tuple(tuple(dict.fromkeys(p for word in own for p in word.positions)) for own in words),
        keys=image,
        image_keys=image,
        spec=spec,
    )
