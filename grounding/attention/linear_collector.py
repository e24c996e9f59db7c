"""Collect rows of layers that attend by the gated delta rule, and check that they are complete and exact."""

from __future__ import annotations

import torch
from torch import Tensor

from grounding.attention.budget import DecoderShape, check_budget
from grounding.attention.events import Pass, Subscriber
from grounding.attention.generation import Prompt
from grounding.attention.introspect import real_positions
from grounding.attention.linear_rows import DeltaCall, delta_error, delta_rows
from grounding.attention.output_check import checked, refuse_unexplained
from grounding.attention.refusals import refuse_incomplete, refuse_unreached
from grounding.attention.request import Recording, RowRequest
from grounding.attention.rows import as_index, keep_columns
from grounding.attention.store import RowStore
from grounding.errors import RecordingError
from grounding.numerics import overflow


class LinearCollector(Subscriber):
    """Keep the requested rows of the pass that reads the prompt; decode steps run unrecorded.

    Args:
        request: what to record; its spec names the layers.
        shape: the decoder's sizes, with the heads of its linear attention.

    Raises:
        RecordingError: the request asks for what such layers do not have or what is not recorded of them.
    """

    def __init__(self, request: RowRequest, shape: DecoderShape) -> None:
        refuse_of_linear(request)
        spec = request.spec
        self.request = request
        self.shape = shape
        self.layers = spec.layers or ()
        self._store = RowStore(request, self.layers, len(spec.heads) if spec.heads else shape.heads)
        self._prompt: int | None = None  # positions of the prompt, once a pass has read it
        self._running = self._has_failed = False
        self._seen: set[int] = set()
        self._errors: list[tuple[int, torch.dtype, Tensor]] = []

    # -- events

    def before_model(self, length: int) -> None:
        """Check the budget for a prompt of `length` positions.

        Raises:
            BudgetError: the request exceeds its budget.
        """
        if self._prompt is None:
            check_budget(self.request, self.shape, length)

    def begin_generation(self, prompt: Prompt) -> None:
        """Check that the prompt holds every position of the request.

        Raises:
            RecordingError: it does not.
        """
        if self._prompt is None:
            refuse_unreached(self.request, prompt.length)

    def begin_pass(self, running: Pass) -> None:
        """Follow the first pass alone.

        Raises:
            RecordingError: it does not read the whole prompt, or a second prompt begins.
        """
        if running.queries is None:
            raise RecordingError("the language model was called without input_ids and without inputs_embeds")
        if self._prompt is not None:
            if running.past == 0:
                raise RecordingError("a second prompt was started inside one record() block: open one per prompt")
            return
        reached = running.past + running.queries
        if running.past > 0 or any(q >= reached for element in self.request.queries for q in element):
            raise RecordingError(
                f"rows of linear attention need the whole prompt in one pass, and this one reads positions "
                f"{running.past} to {reached - 1}: run the model without a filled cache and without "
                "prefill_chunk_size"
            )
        refuse_unreached(self.request, reached)
        self.before_model(reached)
        self._prompt = reached
        self._refuse_padding(real_positions(running.mask, 0, reached))
        self._running = True

    def wants(self, layer: int) -> bool:
        """Whether the prompt is being read."""
        return self._running

    def observe_linear(self, layer: int, call: DeltaCall, output: Tensor) -> None:
        """Keep the requested rows of a call, and check three of them against the kernel's output.

        Raises:
            RecordingError: the call's shape does not fit the request, or the layer attends twice.
        """
        batch, length = call.value.shape[:2]
        if layer in self._seen or length != self._prompt:
            raise RecordingError(f"layer {layer} attends in pieces of its pass, so its rows cannot be recorded")
        if batch != self.request.batch_size:
            raise RecordingError(
                f"the model runs {batch} sequences but the request is for {self.request.batch_size}; give one tuple of "
                "queries per sequence, those of beams and num_return_sequences included"
            )
        self._seen.add(layer)
        keys, chosen = self.request.keys, self.request.spec.heads
        with torch.no_grad():
            for element, queries in enumerate(self.request.queries):
                if not queries:
                    continue
                rows = as_index(queries, output.device)
                weights = delta_rows(call, element, rows)
                few = as_index(checked(len(queries)), output.device)
                error = delta_error(call, element, rows[few], weights.index_select(1, few), output)
                self._errors.append((layer, call.value.dtype, error))
                columns = None if keys is None else as_index(keys[element], output.device)
                kept = keep_columns(weights, columns, 0, length)
                kept = kept if chosen is None else kept.index_select(0, as_index(chosen, output.device))
                self._store.add(layer, element, tuple(range(len(queries))), kept, decode=False)

    def end_pass(self, *, failed: bool) -> None:
        """Check that every layer made a call, and move the rows to the CPU.

        Raises:
            RecordingError: a layer made no call, or its rows do not reproduce its output.
            ModelError: its rows or its output are not finite.
        """
        if not self._running:
            return
        self._running = False
        if failed:
            self._has_failed = True
            return
        if missing := [layer for layer in self.layers if layer not in self._seen]:
            raise RecordingError(
                f"layers {missing[:8]} made no call of the gated delta rule that can be recorded: expected layers that "
                "call it as transformers' own modeling files do"
            )
        refuse_unexplained(self._errors)
        self._errors.clear()
        self._store.flush()

    def finish(self, recording: Recording) -> None:
        """Fill the recording.

        Raises:
            RecordingError: the model did not run in the block, or its pass failed.
            ModelError: a recorded row is not finite.
        """
        if self._prompt is None:
            raise RecordingError(
                "nothing was recorded: the model was not run inside the `with record(...)` block, or was run in "
                "another thread; call the model in the block and in the same thread"
            )
        refuse_incomplete(self._has_failed or self._running)  # an interrupt skips `end_pass`
        prefill, _ = self._store.finished(self._prompt)
        if not all(bool(rows.sum().isfinite()) for rows in prefill):
            raise overflow("a recorded row", torch.float32)
        recording._complete(prefill, [], [{} for _ in prefill], None)

    def _refuse_padding(self, real: Tensor | None) -> None:
        for element, queries in enumerate(self.request.queries):
            tokens = None if real is None else real[min(element, len(real) - 1)].tolist()
            padding = [q for q in queries if tokens is not None and not tokens[q]]
            if padding:
                raise RecordingError(
                    f"query position {padding[0]} of batch element {element} is padding; positions count from the left "
                    "end of the padded prompt, so add the element's padding to positions in its own text"
                )


def refuse_of_linear(request: RowRequest) -> None:
    """Refuse a request for what is not recorded of linear attention.

    Raises:
        RecordingError: decode steps.
    """
    if request.decode:
        raise RecordingError(
            "layers of linear attention are recorded of the prompt, not of decode steps: leave decode out, and read a "
            "generated text in a pass of model(**inputs) over prompt and text"
        )
