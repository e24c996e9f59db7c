"""Record maps between image cells and text tokens while a diffusion transformer runs with its own kernel.

In joint attention (FLUX, SD3, Qwen-Image) text and image are one sequence of queries and keys; in cross attention (Wan,
LTX) image cells are the queries and text tokens the keys. Both are recorded by `record_joint`.

Shape letters: L recorded layers, H heads, X image cells, T text tokens; a reduced axis has length 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from grounding.attention.budget import FLOAT, readable
from grounding.attention.call import AttentionCall
from grounding.attention.columns import Order, iter_columns
from grounding.attention.events import Pass, Scope, Subscriber
from grounding.attention.intercept import intercept
from grounding.attention.introspect import LayerStack
from grounding.attention.output_check import checked, output_error, refuse_unexplained
from grounding.attention.rows import WORKING_BYTES, as_index, attention_rows, iter_rows
from grounding.errors import BudgetError, RecordingError
from grounding.joint_spec import Readout
from grounding.record_spec import RecordSpec, check_counted

Table = Literal["image-to-text", "text-to-image", "text-to-text", "outputs"]
"""Queries and keys of a recorded table; `outputs` is the softmax over text of the products of a cell's and each text
token's attention output, heads side by side and before their projection, H = 1.
"""

Plan = Callable[[Pass], "JointRequest | None"]


@dataclass(frozen=True)
class JointRequest:
    """Choose what is recorded of one element of a transformer's batch.

    Attributes:
        cells: positions of image cells: in the joint sequence, or among the queries of cross attention.
        text: positions of text tokens: in the joint sequence, or among the keys of cross attention. They are the
            columns that are kept, and those that a softmax over text runs over.
        tables: what is recorded. Text has queries in joint attention alone.
        order: order of softmax and mean over heads, for weights on text. Weights on the image are always those of the
            softmax over all keys.
        spec: layers, heads, reductions and budget.
        element: element of the batch that is recorded.
        batch: elements of the transformer's batch; attention may run on them together or one by one.
        mean: average all passes as they run; otherwise every pass is kept.

    Raises:
        RecordingError: positions are negative, repeated or missing, or a field is of an unknown value.
    """

    cells: tuple[int, ...]
    text: tuple[int, ...]
    tables: tuple[Table, ...] = ("image-to-text",)
    order: Order = "text"
    spec: RecordSpec = field(default_factory=RecordSpec)
    element: int = 0
    batch: int = 1
    mean: bool = True

    def __post_init__(self) -> None:
        for name, positions in (("cells", self.cells), ("text", self.text)):
            if not positions or len(set(positions)) != len(positions):
                raise RecordingError(f"{name} must name each position once, and at least one")
            check_counted(name, positions)
        for name, given, known in (("order", (self.order,), Order), ("tables", self.tables, Table)):
            unknown = [one for one in given if one not in get_args(known)]
            if unknown or not given:
                raise RecordingError(f"{name}={unknown or given} is unknown: use {', '.join(get_args(known))}")
        if not 0 <= self.element < self.batch:
            raise RecordingError(f"element {self.element} of a batch of {self.batch} does not exist")
        if self.spec.head_statistics or self.spec.residual_sinks or self.spec.flow is not None:
            raise RecordingError(
                "head statistics, residual sinks and attention flow are those of a language model's decoder; a "
                "diffusion transformer has none. Leave out the stages that need them (heads-mean-max, heads-max-image, "
                "sinks-residual, flow)"
            )

    @property
    def reduces_heads(self) -> bool:
        """Whether the head axis is averaged, by request or by the order."""
        return self.spec.reduce in ("heads", "both") or self.order.startswith("text-of-mean")

    @property
    def reduces_layers(self) -> bool:
        """Whether the layer axis is averaged."""
        return self.spec.reduce in ("layers", "both")


class JointRecording:
    """Hold what `record_joint` kept; it is complete once the block has ended without an error.

    Attributes:
        layers: the recorded layers, counted from 0.
        passes: passes recorded so far.
    """

    def __init__(self, layers: tuple[int, ...]) -> None:
        self.layers = layers
        self.passes = 0
        self._tables: dict[Table, list[Tensor]] | None = None

    def table(self, name: Table) -> Tensor:
        """Return a recorded table.

        Returns:
            [S, L, H, queries, keys] float32 on the CPU; S = 1 where passes are averaged.

        Raises:
            RecordingError: the recording is not complete, or the table was not requested.
        """
        if self._tables is None:
            raise RecordingError(
                "the recording is not complete: run the transformer inside the block and read after it has ended"
            )
        if name not in self._tables:
            raise RecordingError(f"{name} was not requested: name it in tables")
        return torch.stack(self._tables[name])


@contextmanager
def record_joint(
    transformer: nn.Module,
    layers: nn.ModuleList | list[nn.Module],
    request: JointRequest,
    plan: Plan | None = None,
) -> Iterator[JointRecording]:
    """Record maps of all passes of a diffusion transformer inside the block.

    The transformer runs with its own kernel and processors, and its output is bit-identical to a run without recording.

    Args:
        transformer: one run of it is a pass.
        layers: its attention modules that relate image and text, one per block.
        request: what to record.
        plan: returns the request of each pass, which may differ in positions, element and batch, or None for a pass
            that is not recorded; every pass is recorded by `request` where no plan is given.

    Yields:
        The recording, readable after the block.

    Raises:
        RecordingError: the transformer cannot be recorded, or did not run.
        BudgetError: the request exceeds its budget; raised before the transformer runs.
    """
    stack = LayerStack(transformer, nn.ModuleList(layers))
    chosen = request.spec.layers if request.spec.layers is not None else tuple(range(len(layers)))
    collector = JointCollector(request, chosen, plan)
    check_joint_budget(request, chosen, _heads(layers))
    scope = Scope(chosen, log_sum_exp=request.order in ("joint", "text-of-mean"))
    recording = JointRecording(chosen)
    with intercept(transformer, collector, scope, stack=stack):
        yield recording
    collector.finish(recording)


class JointCollector(Subscriber):
    """Keep the requested tables of a transformer's passes.

    Args:
        request: what to record.
        layers: recorded layers.
        plan: see `record_joint`.
    """

    def __init__(self, request: JointRequest, layers: tuple[int, ...], plan: Plan | None = None) -> None:
        self._request = request
        self._plan = plan
        self._layers = layers
        self._elements: dict[int, int] = {}  # layer: elements of the batch seen in this pass
        self._kept: dict[tuple[Table, int], Tensor] = {}
        self._errors: list[tuple[int, torch.dtype, Tensor]] = []
        self._done: dict[Table, list[Tensor]] = {name: [] for name in request.tables}
        self._recording = False
        self._passes = 0

    def begin_pass(self, running: Pass) -> None:
        """Decide whether the pass is recorded."""
        planned = self._request if self._plan is None else self._plan(running)
        self._recording = planned is not None
        self._request = planned or self._request
        self._elements.clear()
        self._kept.clear()
        self._errors.clear()

    def wants(self, layer: int) -> bool:
        """Whether the current pass is recorded."""
        return self._recording

    def observe(self, layer: int, call: AttentionCall, output: Tensor) -> None:
        """Keep the tables of the wanted element, and check one row against the kernel's output.

        Raises:
            RecordingError: the call's shape does not fit the request.
        """
        before = self._elements.get(layer, 0)
        after = self._elements[layer] = before + call.query.shape[0]
        if after > self._request.batch:
            raise RecordingError(
                f"layer {layer} attends for {after} elements in one pass where the batch has {self._request.batch}: "
                "more than one attention runs in it, as with image-prompt adapters; expected one"
            )
        if not before <= self._request.element < after:
            return
        self._refuse_shape(layer, call)
        with torch.no_grad():
            self._keep(layer, call, self._request.element - before, output)

    def end_pass(self, *, failed: bool) -> None:
        """Check that every layer was seen, and add the pass.

        Raises:
            RecordingError: a layer made no call, or its rows do not reproduce its output.
            ModelError: its rows or its output are not finite.
        """
        if not self._recording or failed:
            self._recording = False
            return
        self._recording = False
        missing = [layer for layer in self._layers if self._elements.get(layer, 0) <= self._request.element]
        if missing:
            raise RecordingError(
                f"layers {missing[:8]} made no attention call that can be recorded: expected their processors to use "
                "diffusers' dispatcher or torch's scaled_dot_product_attention"
            )
        refuse_unexplained(self._errors)
        self._passes += 1
        for name, done in self._done.items():
            stacked = torch.stack([self._kept[name, layer] for layer in self._layers])
            if self._request.reduces_layers:
                stacked = stacked.mean(dim=0, keepdim=True)
            stacked = stacked.cpu()
            if self._request.mean and done:
                done[0] += (stacked - done[0]) / self._passes
            else:
                done.append(stacked)
        self._kept.clear()

    def finish(self, recording: JointRecording) -> None:
        """Fill the recording.

        Raises:
            RecordingError: no pass was recorded.
        """
        if self._passes == 0:
            raise RecordingError(
                "nothing was recorded: the transformer did not run inside the block, or ran in another thread"
            )
        recording.passes, recording._tables = self._passes, self._done

    def _keep(self, layer: int, call: AttentionCall, element: int, output: Tensor) -> None:
        request, device = self._request, call.query.device
        cells, text = as_index(request.cells, device), as_index(request.text, device)
        some = cells[checked(len(cells))]
        found = output_error(call, element, some, attention_rows(call, element, some), output)
        self._errors.append((layer, call.query.dtype, found))
        for name in request.tables:
            parts: Iterator[tuple[slice, Tensor]]
            if name == "outputs":
                parts = iter(((slice(0, len(cells)), self._products(output[element], cells, text)),))
            elif name == "text-to-image":
                parts = ((part, w.index_select(-1, cells)) for part, w in iter_rows(call, element, text))
            else:
                rows = cells if name == "image-to-text" else text
                parts = iter_columns(call, element, rows, text, request.order)
            self._kept[name, layer] = torch.cat([self._reduced(weights) for _, weights in parts], dim=1)

    def _products(self, output: Tensor, cells: Tensor, text: Tensor) -> Tensor:
        """[1, X, T] softmax over text of the products of attention outputs [Q, H, Dv]."""
        heads, readout = self._request.spec.heads, self._request.spec.readout or Readout()
        if heads is not None:
            output = output.index_select(1, as_index(heads, output.device))
        own, words = (output.index_select(0, some).flatten(1).float() for some in (cells, text))
        if readout.unit:
            words = torch.nn.functional.normalize(words, dim=-1)
        return torch.softmax(own @ words.T / readout.temperature, dim=-1)[None]

    def _reduced(self, weights: Tensor) -> Tensor:
        if self._request.spec.heads is not None and weights.shape[0] > 1:
            weights = weights.index_select(0, as_index(self._request.spec.heads, weights.device))
        return weights.mean(dim=0, keepdim=True) if self._request.reduces_heads else weights

    def _refuse_shape(self, layer: int, call: AttentionCall) -> None:
        request = self._request
        joint = any(name != "image-to-text" for name in request.tables)
        if joint and call.query_count != call.key_count:
            raise RecordingError(
                f"layer {layer} attends from {call.query_count} queries to {call.key_count} keys, as cross attention "
                f"does, where text has no queries: record image-to-text alone, not {', '.join(request.tables)}"
            )
        for what, positions, count in (
            ("cell", request.cells, call.query_count),
            ("text", request.text, call.key_count),
        ):
            if max(positions) >= count:
                raise RecordingError(
                    f"{what} position {max(positions)} is outside layer {layer}'s sequence of {count} positions"
                )
        heads = request.spec.heads
        if heads is not None and max(heads) >= call.head_count:
            raise RecordingError(
                f"head {max(heads)} does not exist: layer {layer} has {call.head_count} (0 to {call.head_count - 1})"
            )
        if heads is not None and request.order.startswith("text-of-mean"):
            raise RecordingError(f"order {request.order!r} averages all heads; leave heads out, or use order 'text'")


def check_joint_budget(request: JointRequest, layers: tuple[int, ...], heads: int) -> int:
    """Check that a request fits its budget.

    Args:
        request: what to record.
        layers: recorded layers.
        heads: H of a layer.

    Returns:
        Bytes: the kept tables of one pass, and one chunk of work.

    Raises:
        BudgetError: the request exceeds its budget; the message suggests the least lossy change.
    """
    kept_heads = 1 if request.reduces_heads else len(request.spec.heads or range(heads))
    cells, text = len(request.cells), len(request.text)
    sizes: dict[Table, int] = {
        "image-to-text": cells * text,
        "text-to-image": cells * text,
        "text-to-text": text * text,
        "outputs": cells * text,
    }
    kept = len(layers) * kept_heads * sum(sizes[name] for name in request.tables) * FLOAT
    total = kept + WORKING_BYTES
    if total > request.spec.budget_bytes:
        cure = (
            "average the heads with reduce='heads'"
            if not request.reduces_heads
            else "record fewer layers, or raise budget_bytes"
        )
        raise BudgetError(
            f"recording this request takes {readable(total)} a pass but its budget is "
            f"{readable(request.spec.budget_bytes)}; the cheapest change is to {cure}"
        )
    return total


def _heads(layers: nn.ModuleList | list[nn.Module]) -> int:
    """H of the attention modules; 1 where they do not say it."""
    return max((int(found) for layer in layers if isinstance(found := getattr(layer, "heads", None), int)), default=1)
