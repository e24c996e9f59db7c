"""Define what to record (`RowRequest`) and the result (`Recording`)."""

from __future__ import annotations

from dataclasses import dataclass, field
from operator import index
from typing import TYPE_CHECKING, Any

from grounding.errors import RecordingError
from grounding.record_spec import RecordSpec, check_counted

if TYPE_CHECKING:
    from torch import Tensor

Positions = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class RowRequest:
    """Choose the attention weights of one batch to record.

    Positions count from 0 at the left end of the padded prompt, after the processor has expanded its image tokens. They
    are given as one sequence of whole numbers per batch element (tuples, lists, ranges, a tensor [B, R]), and kept as
    tuples. Of cross-attention (`RecordSpec.attention`) keys are no positions: they count the picture's keys from 0.

    Attributes:
        queries: per batch element, the positions whose rows are recorded.
        keys: per batch element, the positions whose columns are kept; None keeps all. The softmax always runs over all
            keys, so a kept row sums to at most 1.
        image_keys: per batch element, the image positions; required by the statistic `"max_image"`, and suggested as
            columns when a request exceeds its budget.
        spec: layers, heads, reductions, statistics, or an attention flow.
        decode: also record the newest token's row at every decode step.
        decode_steps: number of decode steps that the budget is checked for before the run, >= 0; further steps are
            recorded as long as they fit.

    Raises:
        RecordingError: positions are no whole numbers per element, negative, repeated or missing, or nothing is
            requested.
    """

    queries: Positions
    keys: Positions | None = None
    image_keys: Positions | None = None
    spec: RecordSpec = field(default_factory=RecordSpec)
    decode: bool = False
    decode_steps: int = 256

    def __post_init__(self) -> None:
        for name in ("queries", "keys", "image_keys"):
            object.__setattr__(self, name, _positions(name, getattr(self, name)))
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
            check_counted(name, [p for element in positions for p in element])
            for element in positions:
                if len(set(element)) != len(element):
                    raise RecordingError(f"{name} names a position twice; name each position once")
        flow = self.spec.flow
        by_image = "max_image" in self.spec.head_statistics or (flow is not None and flow.head_weights == "max_image")
        if by_image and (self.image_keys is None or not all(self.image_keys)):
            raise RecordingError("the statistic 'max_image' needs image_keys: at least one position per batch element")
        if self.decode_steps < 0:
            raise RecordingError(f"decode_steps={self.decode_steps} was given, expected at least 0")
        if not (any(self.queries) or self.decode or self.spec.head_statistics or self.spec.residual_sinks):
            raise RecordingError("the request asks for nothing: give query positions, decode=True or a statistic")

    @property
    def batch_size(self) -> int:
        """Number of batch elements the request is for."""
        return len(self.queries)

    @property
    def reduces_heads(self) -> bool:
        """Whether the head axis is averaged, or joined by a flow."""
        return self.spec.flow is not None or self.spec.reduce in ("heads", "both")

    @property
    def reduces_layers(self) -> bool:
        """Whether the layer axis is averaged, or joined by a flow."""
        return self.spec.flow is not None or self.spec.reduce in ("layers", "both")


def _positions(name: str, given: Any) -> Positions | None:
    if given is None and name != "queries":
        return None
    try:
        return tuple(tuple(index(position) for position in element) for element in given)
    except TypeError:
        shown = repr(given)
        shown = shown if len(shown) <= 60 else f"{shown[:60]}..."
        raise RecordingError(
            f"{name}={shown} was given; expected one tuple of positions per batch element, such as ((3, 5),) for one "
            "element"
        ) from None


class Recording:
    """Hold what `record` kept; it is complete once the `with` block has ended without an error.

    Every tensor is float32 and on the CPU. Shape letters: L layers, H heads, R rows, C columns; a reduced axis has
    length 1, as do both of an attention flow. Reading an incomplete recording raises RecordingError.
    """

    def __init__(self, layers: tuple[int, ...]) -> None:
        self.layers = layers
        self._prefill: list[Tensor] | None = None
        self._decode: list[Tensor] = []
        self._statistics: list[dict[str, Tensor]] = []
        self._sinks: list[Tensor] | None = None
        self._learned: list[Tensor] | None = None

    @property
    def prefill(self) -> list[Tensor]:
        """Per batch element [L, H, R, C], with rows and columns in the order of the request."""
        self._check_complete()
        assert self._prefill is not None
        return self._prefill

    @property
    def decode(self) -> list[Tensor]:
        """Per batch element [steps, L, H, 1, C]; an empty list where decode steps were not requested.

        Step 0 is the pass that reads the first generated token. With `keys=None`, C is the length at the last step
        and earlier steps hold 0 in columns that did not exist yet.
        """
        self._check_complete()
        return self._decode

    @property
    def head_statistics(self) -> list[dict[str, Tensor]]:
        """Per batch element, name → [L, H] over the recorded layers and heads; never reduced."""
        self._check_complete()
        return self._statistics

    @property
    def residual_sinks(self) -> list[Tensor] | None:
        """Per batch element [L, C], phi of each kept key (see `sinks.sink_strength`); None if not requested."""
        self._check_complete()
        return self._sinks

    @property
    def learned_sinks(self) -> list[Tensor] | None:
        """Per batch element [L, H, R], what a row lacks of a sum of 1: the weight of learned sinks (gpt-oss).

        It is of all recorded layers and heads, never reduced, and 0 in layers without such sinks; None if no layer has
        them. Of decode steps it is not kept: there it is 1 minus the sum of a row of all keys.
        """
        self._check_complete()
        return self._learned

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
        learned: list[Tensor] | None = None,
    ) -> None:
        self._prefill, self._decode, self._statistics = prefill, decode, statistics
        self._sinks, self._learned = sinks, learned
