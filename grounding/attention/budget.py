"""Estimate the memory of a recording before the model runs, and suggest a change where it exceeds the budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from grounding.attention.flow import BLOCK_BYTES, MOST_ROWS
from grounding.attention.introspect import LayerStack
from grounding.attention.linear_rows import CHUNK
from grounding.attention.request import RowRequest
from grounding.attention.rows import UPCAST_KEYS, rows_per_chunk
from grounding.attention_flow import AttentionFlow
from grounding.compat import delta_module, delta_sizes, layer_settings
from grounding.errors import BudgetError, RecordingError

FLOAT = 4
"""Bytes of one recorded weight, float32."""

HALF = 2
"""Bytes of one number in half precision."""


@dataclass(frozen=True)
class DecoderShape:
    """Hold the sizes of a decoder.

    Attributes:
        layers: L, decoder layers.
        heads: H, query heads; of linear attention its value heads.
        kv_heads: key and value heads; of linear attention its key heads; the largest number where it differs by layer.
        head_width: D, query and key width; the largest where it differs by layer.
        number_bytes: bytes of one number of the model's queries and keys.
    """

    layers: int
    heads: int
    kv_heads: int
    head_width: int
    number_bytes: int = FLOAT

    @classmethod
    def of_linear(cls, stack: LayerStack) -> DecoderShape:
        """Read the shape of a decoder's linear attention off its first layer that attends by the gated delta rule."""
        module = next(found for layer in stack.layers if (found := delta_module(layer)) is not None)
        heads, key_heads, width = delta_sizes(module)
        return cls(len(stack.layers), heads, key_heads, width)

    @classmethod
    def of(cls, config: Any, layers: int, number_bytes: int = FLOAT) -> DecoderShape:
        """Read the shape off a transformers text config and the number of decoder layers.

        Args:
            config: the text config.
            layers: L.
            number_bytes: bytes of one number of the model's queries and keys.

        Raises:
            RecordingError: the config names no number of attention heads.
        """
        heads = layer_settings(config, "num_attention_heads")
        if not heads:
            raise RecordingError(
                f"{type(config).__name__} names no number of attention heads, so there is no attention to record: "
                "expected the config of a decoder with attention"
            )
        widths = layer_settings(config, "head_dim") or [config.hidden_size // heads[0]]
        kv_heads = layer_settings(config, "num_key_value_heads") or heads
        return cls(layers, heads[0], max(kv_heads), max(widths), number_bytes)


@dataclass(frozen=True)
class Estimate:
    """Hold the cost of a recording, in addition to the model's own run.

    Attributes:
        kept_bytes: bytes of recorded rows, statistics and sinks, and of the queries and keys of an attention flow.
        working_bytes: peak bytes while one layer's rows are computed.
        flops: additional floating-point operations, two per multiply-add.
    """

    kept_bytes: int
    working_bytes: int
    flops: int

    @property
    def total_bytes(self) -> int:
        """Sum of kept and working bytes, which is checked against the budget."""
        return self.kept_bytes + self.working_bytes


def estimate(request: RowRequest, shape: DecoderShape, length: int) -> Estimate:
    """Estimate the cost of a request.

    Args:
        request: what to record.
        shape: the decoder's sizes.
        length: N, the prompt's length in positions, padding included; of cross-attention, the picture's keys.

    Returns:
        Bytes and floating-point operations.
    """
    if request.spec.flow is not None:
        return _estimate_flow(request, request.spec.flow, shape, length)
    cost = _estimate_rows(request, shape, length)
    return _of_linear(cost, request, shape, length) if request.spec.attention == "linear" else cost


def _estimate_rows(request: RowRequest, shape: DecoderShape, length: int) -> Estimate:
    layers = len(request.spec.layers) if request.spec.layers is not None else shape.layers
    heads = len(request.spec.heads) if request.spec.heads is not None else shape.heads
    kept_layers = 1 if request.reduces_layers else layers
    kept_heads = 1 if request.reduces_heads else heads
    kept = flops = 0
    most_rows = 1
    for element, queries in enumerate(request.queries):
        columns = len(request.keys[element]) if request.keys is not None else length
        kept += kept_layers * kept_heads * len(queries) * columns * FLOAT
        steps = request.decode_steps if request.decode else 0
        added = 0 if request.spec.attention == "cross" else steps  # a generated token is a key of those behind it
        decode_columns = columns if request.keys is not None else length + added
        kept += steps * kept_layers * kept_heads * decode_columns * FLOAT
        kept += len(request.spec.head_statistics) * layers * heads * FLOAT
        kept += layers * columns * FLOAT if request.spec.residual_sinks else 0
        rows = length if request.spec.head_statistics else len(queries)
        most_rows = max(most_rows, rows)
        flops += 2 * layers * shape.heads * shape.head_width * (rows * length + steps * (length + added))
    chunk = min(most_rows, rows_per_chunk(shape.heads, length))
    upcast = min(UPCAST_KEYS, length) * shape.kv_heads * shape.head_width * FLOAT  # half-precision models only
    working = 3 * chunk * shape.heads * length * FLOAT + upcast
    return Estimate(kept, working, flops)


def _of_linear(rows: Estimate, request: RowRequest, shape: DecoderShape, length: int) -> Estimate:
    """The estimate of rows that are computed all at once from float32 queries and keys, chunk by chunk."""
    most = max(len(queries) for queries in request.queries)
    chunk = min(CHUNK, length)
    widths = length * (most + 2 * shape.head_width) + chunk * (3 * chunk + 3 * most) + 3 * most * shape.head_width
    layers = len(request.spec.layers or range(shape.layers))
    solved = 2 * layers * shape.heads * length * chunk * (most + shape.head_width) * request.batch_size
    return Estimate(rows.kept_bytes, shape.heads * widths * FLOAT, rows.flops + solved)


def _estimate_flow(request: RowRequest, flow: AttentionFlow, shape: DecoderShape, length: int) -> Estimate:
    layers = len(request.spec.layers) if request.spec.layers is not None else shape.layers
    steps = request.decode_steps if request.decode else 0
    whole = length + steps
    number = min(shape.number_bytes, HALF) if flow.cache_dtype == "bfloat16" else shape.number_bytes
    cached = layers * whole * (shape.heads + shape.kv_heads) * shape.head_width * number * request.batch_size
    rows = [len(queries) + steps for queries in request.queries]
    columns = [whole if request.keys is None else len(own) for own in request.keys or request.queries]
    kept = sum(count * width * FLOAT for count, width in zip(rows, columns, strict=True))
    # Products of a layer's heads, three sets of rows per element, and one layer's keys in float32.
    vectors = shape.heads * max(rows) + 3 * sum(rows) + shape.kv_heads * shape.head_width
    block = min(BLOCK_BYTES, shape.heads * min(MOST_ROWS, whole) * whole * FLOAT)
    flops = sum(layers * shape.heads * (shape.head_width + count) * whole**2 for count in rows)  # causal: half
    return Estimate(kept + cached, vectors * whole * FLOAT + 2 * block, flops)


def check_budget(request: RowRequest, shape: DecoderShape, length: int) -> Estimate:
    """Check that a request fits its budget.

    Args:
        request: what to record.
        shape: the decoder's sizes.
        length: see `estimate`.

    Returns:
        The estimate.

    Raises:
        BudgetError: the request exceeds its budget; the message suggests the least lossy change.
    """
    cost = estimate(request, shape, length)
    if cost.total_bytes > request.spec.budget_bytes:
        what = f"a picture of {length} keys" if request.spec.attention == "cross" else f"a prompt of {length} positions"
        raise BudgetError(
            f"recording this request takes {readable(cost.total_bytes)} for {what} but its budget is "
            f"{readable(request.spec.budget_bytes)}; {cheapest_change(request, shape, length)}"
        )
    return cost


def cheapest_change(request: RowRequest, shape: DecoderShape, length: int) -> str:
    """Suggest the least lossy change that makes a request fit its budget.

    Args:
        request: a request over its budget.
        shape: the decoder's sizes.
        length: N, the prompt's length in positions.

    Returns:
        A clause for an error message.

    Notes:
        The order is our choice: drop columns that no map uses, drop up to half of the layers, average heads, average
        layers, average both, drop more layers, raise the budget. Of an attention flow: halve the numbers, record fewer
        sequences at a time, drop the first layers, raise the budget.
    """
    if request.spec.flow is not None:
        return _cheapest_flow_change(request, request.spec.flow, shape, length)
    layers = request.spec.layers if request.spec.layers is not None else tuple(range(shape.layers))
    fitting = 0
    if not request.reduces_layers:
        fitting = max((n for n in range(1, len(layers)) if _fits(_last(request, layers, n), shape, length)), default=0)
    fewer = (
        f"keep {fitting} of the {len(layers)} layers, for example the last",
        _last(request, layers, max(fitting, 1)),
    )
    changes: list[tuple[str, RowRequest]] = []
    if request.image_keys is not None and request.keys is None:
        changes.append(
            ("keep only the image's columns with keys=image_keys", replace(request, keys=request.image_keys))
        )
    if fitting * 2 >= len(layers):
        changes.append(fewer)
    if not request.reduces_heads:
        name = "both" if request.reduces_layers else "heads"
        changes.append((f"average the heads with reduce={name!r}", _reduced(request, name)))
    if not request.reduces_layers:
        name = "both" if request.reduces_heads else "layers"
        changes.append((f"average the layers with reduce={name!r}", _reduced(request, name)))
    if request.spec.reduce == "none":
        changes.append(("average heads and layers with reduce='both'", _reduced(request, "both")))
    if fitting:
        changes.append(fewer)
    hint = "" if request.keys is not None else ", or name the columns you need in keys"
    return _first_that_fits(request, changes, shape, length, f"ask for fewer rows{hint}")


def _cheapest_flow_change(request: RowRequest, flow: AttentionFlow, shape: DecoderShape, length: int) -> str:
    layers = request.spec.layers if request.spec.layers is not None else tuple(range(shape.layers))
    changes: list[tuple[str, RowRequest]] = []
    if shape.number_bytes > HALF and flow.cache_dtype == "model":
        halved = replace(request.spec, flow=replace(flow, cache_dtype="bfloat16"))
        changes.append(
            ("keep queries and keys in half the bytes with cache_dtype='bfloat16'", replace(request, spec=halved))
        )
    for count in range(request.batch_size - 1, 0, -1):
        few = replace(
            request,
            queries=request.queries[:count],
            keys=None if request.keys is None else request.keys[:count],
            image_keys=None if request.image_keys is None else request.image_keys[:count],
        )
        changes.append((f"record {count} of the {request.batch_size} sequences at a time", few))
    for count in range(len(layers) - 1, 0, -1):
        changes.append(
            (f"follow the flow through the last {count} of {len(layers)} layers", _last(request, layers, count))
        )
    return _first_that_fits(request, changes, shape, length, "use a shorter prompt")


def _first_that_fits(
    request: RowRequest, changes: Sequence[tuple[str, RowRequest]], shape: DecoderShape, length: int, otherwise: str
) -> str:
    for sentence, changed in changes:
        cost = estimate(changed, shape, length)
        if cost.total_bytes <= request.spec.budget_bytes:
            return f"the cheapest change that fits is to {sentence} ({readable(cost.total_bytes)})"
    needed = estimate(request, shape, length).total_bytes
    return f"no single change fits: raise budget_bytes to at least {needed}, or {otherwise}"


def readable(count: int) -> str:
    """Format a byte count, for example `1.5 GiB`."""
    size = float(count)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def _reduced(request: RowRequest, name: str) -> RowRequest:
    return replace(request, spec=replace(request.spec, reduce=name))  # type: ignore[arg-type]


def _last(request: RowRequest, layers: tuple[int, ...], count: int) -> RowRequest:
    return replace(request, spec=replace(request.spec, layers=layers[-count:]))


def _fits(request: RowRequest, shape: DecoderShape, length: int) -> bool:
    return estimate(request, shape, length).total_bytes <= request.spec.budget_bytes
