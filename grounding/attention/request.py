"""What to record (`RowRequest`) and what was recorded (`Recording`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from grounding.errors import RecordingError

if TYPE_CHECKING:
    from torch import Tensor

Reduce = Literal["none", "heads", "layers", "both"]
Positions = tuple[tuple[int, ...], ...]

STATISTICS = ("max_all", "max_image")


@dataclass(frozen=True)
class RowRequest:
    """Which attention weights to keep of one batch.

    Positions are absolute: they count from 0 at the left end of the (padded) prompt, after the model's processor has
    put in its image tokens.

    Attributes:
        queries: per batch element, the positions whose rows are wanted.
        keys: per batch element, the positions whose columns are kept; None keeps all. The softmax always runs over all
            keys, so a kept row sums to at most 1.
        layers: decoder layers to record, counted from 0; None for all.
        heads: heads to record, counted from 0; None for all.
        reduce: axes averaged while the model runs; an averaged axis keeps length 1.
        decode: whether to record the newest token's row at every decode step as well.
        head_statistics: `"max_all"` and `"max_image"`: per layer and head, the mean over every unpadded prompt
            position of its largest weight over all keys (the head weight of VL-SAM, NeurIPS 2024), or over
            `image_keys`. They cost a second pass over all queries, in chunks of bounded memory.
        image_keys: per batch element, the image positions; needed by `"max_image"`, and offered when a request is too
            large.
        residual_sinks: whether to record how far each kept key's residual stands out in the layer's sink dimensions.
        budget_bytes: the most bytes the recording may take, checked before the model runs.
        sink_dims: residual dimensions that mark an attention sink, where they are known for the model (Kang et al.,
            ICLR 2025, give two per model); None finds them: per layer, the `sink_dim_count` largest of the first
            real token's absolute residual. Finding them so is our choice, not the paper's.
        sink_dim_count: how many sink dimensions to find.
        decode_steps: how many decode steps the budget is checked for. More steps are recorded as long as they stay
            within the budget.
    """

    queries: Positions
    keys: Positions | None = None
    layers: tuple[int, ...] | None = None
    heads: tuple[int, ...] | None = None
    reduce: Reduce = "none"
    decode: bool = False
    head_statistics: tuple[str, ...] = ()
    image_keys: Positions | None = None
    residual_sinks: bool = False
    budget_bytes: int = 2 << 30
    sink_dims: tuple[int, ...] | None = None
    sink_dim_count: int = 2
    decode_steps: int = 256

    def __post_init__(self) -> None:
        batch = len(self.queries)
        if batch == 0:
            raise RecordingError("the request holds no batch element; give one tuple of query positions per element")
        for name, positions in (("queries", self.queries), ("keys", self.keys), ("image_keys", self.image_keys)):
            if positions is None:
                continue
            if len(positions) != batch:
                raise RecordingError(
                    f"the request has {name} for {len(positions)} batch elements but queries for {batch}; "
                    "give one tuple per element in each"
                )
            _check_counted(name, [p for element in positions for p in element])
            for element in positions:
                if len(set(element)) != len(element):
                    raise RecordingError(f"{name} names a position twice; name each position once")
        for name, chosen in (("layers", self.layers), ("heads", self.heads), ("sink_dims", self.sink_dims)):
            if chosen is not None:
                if not chosen or len(set(chosen)) != len(chosen):
                    raise RecordingError(f"{name}={chosen} must name each wanted one once, or be None")
                _check_counted(name, chosen)
        if self.reduce not in ("none", "heads", "layers", "both"):
            raise RecordingError(f"reduce={self.reduce!r} is unknown; use 'none', 'heads', 'layers' or 'both'")
        unknown = [name for name in self.head_statistics if name not in STATISTICS]
        if unknown:
            raise RecordingError(f"head statistic {unknown[0]!r} is unknown; known are {', '.join(STATISTICS)}")
        if "max_image" in self.head_statistics and (self.image_keys is None or not all(self.image_keys)):
            raise RecordingError("the statistic 'max_image' needs image_keys: at least one position per batch element")
        if self.sink_dim_count < 1 or self.decode_steps < 0:
            raise RecordingError("sink_dim_count must be at least 1 and decode_steps at least 0")
        if not (any(self.queries) or self.decode or self.head_statistics or self.residual_sinks):
            raise RecordingError("the request asks for nothing: give query positions, decode=True or a statistic")

    @property
    def batch_size(self) -> int:
        """Number of batch elements the request is for."""
        return len(self.queries)

    @property
    def reduces_heads(self) -> bool:
        """Whether the head axis is averaged."""
        return self.reduce in ("heads", "both")

    @property
    def reduces_layers(self) -> bool:
        """Whether the layer axis is averaged."""
        return self.reduce in ("layers", "both")


class Recording:
    """What `record` kept, complete once its `with` block has ended without an error.

    Every tensor is float32 and on the CPU. B batch, L layers, H heads, R rows, C columns; a reduced axis has length 1.
    """

    def __init__(self, layers: tuple[int, ...]) -> None:
        self.layers = layers
        self._prefill: list[Tensor] | None = None
        self._decode: list[Tensor] = []
        self._statistics: list[dict[str, Tensor]] = []
        self._sinks: list[Tensor] | None = None

    @property
    def prefill(self) -> list[Tensor]:
        """Per batch element [L, H, R, C], rows and columns in the order of the request."""
        self._check_complete()
        assert self._prefill is not None
        return self._prefill

    @property
    def decode(self) -> list[Tensor]:
        """Per batch element [steps, L, H, 1, C], or an empty list where decode steps were not asked for.

        Step 0 is the pass that reads the first generated token. With `keys=None`, C is the length at the last step
        and earlier steps hold 0 in columns that did not exist yet.
        """
        self._check_complete()
        return self._decode

    @property
    def head_statistics(self) -> list[dict[str, Tensor]]:
        """Per batch element, name → [L, H] over the recorded layers and heads, never reduced."""
        self._check_complete()
        return self._statistics

    @property
    def residual_sinks(self) -> list[Tensor] | None:
        """Per batch element [L, C], how far each kept key stands out in the sink dimensions; None if not asked for."""
        self._check_complete()
        return self._sinks

    def _check_complete(self) -> None:
        if self._prefill is None:
            raise RecordingError(
                "the recording is not complete: run the model inside the `with record(...)` block and read the rows "
                "after the block has ended"
            )

    def _complete(
        self,
        prefill: list[Tensor],
        decode: list[Tensor],
        statistics: list[dict[str, Tensor]],
        sinks: list[Tensor] | None,
    ) -> None:
        self._prefill, self._decode, self._statistics, self._sinks = prefill, decode, statistics, sinks


def _check_counted(name: str, values: Sequence[int]) -> None:
    if any(value < 0 for value in values):
        raise RecordingError(f"{name} holds {min(values)}; positions and numbers count from 0")
