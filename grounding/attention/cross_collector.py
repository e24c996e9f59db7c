"""Collect rows of layers of cross-attention, whose keys are those of a picture and no positions of the sequence."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

from torch import Tensor

from grounding.attention.budget import DecoderShape
from grounding.attention.call import AttentionCall
from grounding.attention.collector import RowCollector
from grounding.attention.request import RowRequest
from grounding.errors import RecordingError


class CrossCollector(RowCollector):
    """Keep the requested rows of a decoder's cross-attention; see `RowCollector`.

    Queries are positions of the sequence. Columns are keys of the picture, in the order in which the vision tower's
    tokens enter the layer; they are the same in every pass, and every decode step has a row over all of them.

    Args:
        request: what to record; `keys` and `image_keys` number the picture's keys.
        shape: the decoder's sizes.
        undo: receives a callback that restores the cache when the recording ends.
        on_step: receives each decode step's rows, which are then not kept.
    """

    _defers = False

    def __init__(
        self,
        request: RowRequest,
        shape: DecoderShape,
        undo: ExitStack,
        on_step: Callable[[list[Tensor]], None] | None = None,
    ) -> None:
        super().__init__(request, shape, undo, on_step)
        named = [keys for keys in (request.keys, request.image_keys) if keys is not None]
        self._last = max((key for keys in named for own in keys for key in own), default=-1)
        self._keys: int | None = None  # K, known once a layer has attended

    def before_model(self, length: int) -> None:
        """Check the budget for the keys that are known, of which the prompt's length says nothing.

        Raises:
            BudgetError: the request exceeds its budget.
        """
        super().before_model(max(self._last + 1, self._keys or 0))

    def _columns(self, positions: int) -> int:
        return self._keys or 0

    def _refuse_keys(self, layer: int, call: AttentionCall) -> None:
        if self._keys is None:
            if self._last >= call.key_count:
                raise RecordingError(
                    f"key {self._last} is outside the picture, which has {call.key_count} keys in layer {layer} (0 to "
                    f"{call.key_count - 1}); count the vision tower's tokens"
                )
            self._keys = call.key_count
            if self._steps == 0:
                self.before_model(call.key_count)
        if call.key_count != self._keys:
            raise RecordingError(
                f"layer {layer} attends to {call.key_count} keys of a picture where {self._keys} were recorded: open "
                "one record() per prompt, and record layers that read the same keys"
            )
