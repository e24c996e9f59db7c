"""Collect the rows of one recording while the model runs, and check that they are complete and exact."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from grounding.attention.budget import DecoderShape, check_budget, readable
from grounding.attention.call import AttentionCall
from grounding.attention.coverage import refuse_other_keys
from grounding.attention.deferred_rows import DeferredRows
from grounding.attention.events import Pass, Subscriber
from grounding.attention.flow_store import FlowStore
from grounding.attention.generation import Prompt
from grounding.attention.introspect import real_positions
from grounding.attention.output_check import checked, output_error, refuse_unexplained
from grounding.attention.prompt_statistics import PromptStatistics
from grounding.attention.refusals import (
    forbid_reorder,
    refuse_incomplete,
    refuse_missed,
    refuse_shape,
    refuse_unclear_end,
    refuse_unreached,
)
from grounding.attention.request import Recording, RowRequest
from grounding.attention.rows import (
    as_index,
    iter_rows,
    keep_columns,
    real_queries,
)
from grounding.attention.sink_shares import SinkShares
from grounding.attention.store import RowStore
from grounding.attention.token_rows import TokenRows
from grounding.errors import BudgetError, RecordingError
from grounding.numerics import overflow


class RowCollector(Subscriber):
    """Keep the requested rows of a decoder's passes.

    The first passes read the prompt (several where prefill is chunked); a later pass of one position is a decode step.

    Args:
        request: what to record.
        shape: the decoder's sizes.
        undo: receives a callback that restores the cache when the recording ends.
        on_step: receives each decode step's rows, which are then not kept.
    """

    def __init__(
        self,
        request: RowRequest,
        shape: DecoderShape,
        undo: ExitStack,
        on_step: Callable[[list[Tensor]], None] | None = None,
    ) -> None:
        self.request = request
        self._on_step = on_step
        self.shape = shape
        self._undo = undo
        spec = request.spec
        self.layers = spec.layers if spec.layers is not None else tuple(range(shape.layers))
        self._store = RowStore(request, self.layers, len(spec.heads) if spec.heads else shape.heads)
        self._token = TokenRows(request, len(self.layers), partial(self._store.add_token, -1))
        self._deferred = DeferredRows(request, len(self.layers), self._store.add_token)
        self._statistics = PromptStatistics(request, self.layers)
        self._learned = SinkShares(request, self.layers, shape.heads)
        self._flow = None if spec.flow is None else FlowStore(request)
        self._running = False
        self._has_failed = False  # a pass, whose rows are incomplete
        self._keeps = False  # whether rows of the running pass are kept
        self._checked_length = 0
        self._past = 0  # positions in the cache before the running pass
        self._total: int | None = None  # positions after the newest pass; None before the first
        self._start = 0  # positions that were in the cache before recording began
        self._prompt: int | None = None  # the prompt's length, known once a decode step has run
        self._pieces = 0
        self._reached = 0  # prompt positions read so far
        self._steps = 0
        self._end: int | None = None  # the prompt's length as `generate` was given it
        self._cache: Any = None
        self._tokens: Tensor | None = None  # which queries of the pass are no padding
        self._decoding = False
        self._seen: set[int] = set()
        self._errors: list[tuple[int, torch.dtype, Tensor]] = []
        self._dtype = torch.float32

    # -- events

    def before_model(self, length: int) -> None:
        """Check the budget for a prompt of `length` positions.

        Raises:
            BudgetError: the request exceeds its budget.
        """
        if length > self._checked_length and self._steps == 0:
            check_budget(self.request, self.shape, length)
            self._checked_length = length

    def begin_generation(self, prompt: Prompt) -> None:
        """Take over the prompt's length.

        Raises:
            RecordingError: decode steps are wanted of assisted generation, or a position is outside the prompt.
        """
        if prompt.assisted and self.request.decode:
            raise RecordingError(
                "assisted generation (an assistant model or prompt lookup) reads several candidates a step, so there "
                "is no row per step: record plain generation, or the prompt's rows in a pass of model(**inputs)"
            )
        if self._steps == 0:
            refuse_unreached(self.request, prompt.length)
            self._end = prompt.length

    def end_generation(self) -> None:
        """Compute the rows that wait for further steps; the cache may be changed from now on."""
        if not self._is_incomplete:
            self._deferred.finish()

    def begin_pass(self, running: Pass) -> None:
        """Decide whether the pass reads the prompt or a generated token.

        Raises:
            RecordingError: the pass does not continue the previous one, or positions were read before the recording.
        """
        past, queries = running.past, running.queries
        if queries is None:
            raise RecordingError("the language model was called without input_ids and without inputs_embeds")
        refuse_incomplete(self._is_incomplete)
        if self._total is None:
            self._start = past
            refuse_missed(self.request, past)
        elif past != self._total and not self._takes_back(past):
            raise RecordingError(
                "a second prompt was started inside one record() block, or generate ran without its cache; open one "
                "record() per prompt and generate with use_cache=True"
                if past == 0
                else f"the key/value cache holds {past} positions where {self._total} were recorded, as assisted "
                "generation leaves it; record without changing the cache in between"
            )
        self._decoding = self._is_decode(past, queries)
        self._past, self._total, self._cache = past, past + queries, running.cache
        self._tokens = None if self._decoding else real_positions(running.mask, past, queries)
        self._running = True
        self._keeps = self._records
        self._seen.clear()
        if self._decoding:
            self._steps += 1
            if self.request.decode and self._flow is None:
                self._store.start_step(self._columns(self._total))
                self._token.start(self._total)
                if self._on_step is None:
                    self._deferred.start(self._steps - 1, self._total, running.cache)
        else:
            self._pieces += 1
            self._reached = self._total
            self.before_model(self._total)
        if running.cache is not None and self.request.decode:
            forbid_reorder(running.cache, self._undo)

    def wants(self, layer: int) -> bool:
        """Whether rows of the current pass are kept."""
        return self._keeps

    def residual(self, layer: int, hidden: Tensor) -> None:
        """Hold a layer's input [B, Q, E] until its attention call identifies padding."""
        if self._running and not self._decoding:
            self._statistics.hold_residual(layer, hidden)

    def may_wait(self) -> bool:
        """Whether calls without a mask may be emitted at the end of the pass: where their rows may wait longer."""
        return self._decoding and self._keeps and self._deferred.expects_repeated

    def observe_repeated(self, layer: int, query: Tensor, key: Tensor, options: tuple[object, ...]) -> bool:
        """Keep a decode step's call that repeats the layer's last one, which has been checked."""
        kind = None if layer in self._seen else self._deferred.repeated(layer, options)
        if kind is None:
            return False
        self._seen.add(layer)
        if not self._deferred.hold(layer, kind, query, key):
            with torch.no_grad():
                self._token.add(layer, kind.call(query, key))
        return True

    def observe(self, layer: int, call: AttentionCall, output: Tensor) -> None:
        """Keep the requested rows of a call, and check one row per layer against the kernel's output.

        Raises:
            RecordingError: the call's shape does not fit the request or the model's config.
        """
        if layer in self._seen:
            raise RecordingError(
                f"layer {layer} attends more than once in one pass, for example to itself and to an encoder; "
                "only decoders with one attention per layer can be recorded"
            )
        assert self._total is not None
        refuse_shape(layer, call, self.request, self.shape, self._total - self._past)
        self._refuse_keys(layer, call)
        first = not self._seen
        self._seen.add(layer)
        # The first step keeps whole rows of every layer, which are compared with the kernel's output.
        if self._decoding and self._steps > 1 and self._flow is None and self._defers:
            with torch.no_grad() if torch.is_grad_enabled() else nullcontext():
                if self._on_step is None and self._deferred.add(layer, call):
                    return
                if self._token.add(layer, call):
                    return
        offset = max(self._columns(self._total) - call.key_count, 0)
        call = replace(call, query_offset=self._past, key_offset=offset, real=self._tokens)
        with torch.no_grad():
            if self._flow is not None:
                if call.sink_logits is not None:
                    raise RecordingError(
                        f"layer {layer} has learned attention sinks, which an attention flow does not follow: record "
                        "rows without a flow"
                    )
                self._flow.add(layer, call)
            for element in range(self.request.batch_size):
                rows, slots = self._wanted(call, element, check=first)
                self._keep_rows(layer, call, element, rows, slots, output)
                if not self._decoding:
                    self._statistics.add(layer, element, call)
        self._statistics.drop_residuals(layer)

    def end_pass(self, *, failed: bool) -> None:
        """Check that every recorded layer made a call, and move the rows to the CPU.

        Raises:
            RecordingError: a layer made no call, or its rows do not reproduce its output.
            ModelError: its rows or its output are not finite.
            BudgetError: the decode steps exceed the budget.
        """
        if not self._running:
            return
        self._running = self._keeps = False
        self._statistics.drop_residuals()
        self._has_failed = self._has_failed or (failed and self._records)
        if failed or not self._records:
            return
        if not self._seen.issuperset(self.layers):
            missing = [layer for layer in self.layers if layer not in self._seen]
            seen = f"only layers {sorted(self._seen)} did" if self._seen else "none did"
            raise RecordingError(
                f"layers {missing[:8]} made no attention call that can be recorded ({seen}): expected every recorded "
                "layer to use transformers' attention interface or torch's scaled_dot_product_attention. Ask for other "
                "layers, or load the model with attn_implementation='sdpa'"
            )
        refuse_unexplained(self._errors)
        self._errors.clear()
        with torch.no_grad():
            self._token.finish()
            self._deferred.end_step()
        self._store.flush()
        if self._decoding and self._on_step is not None:
            self._on_step(self._store.take_step())
        kept = self._store.bytes_of_decode() if self._flow is None else self._flow.nbytes
        if self._decoding and kept > self.request.spec.budget_bytes:
            raise BudgetError(
                f"{self._steps} decode steps take more than the budget of {readable(self.request.spec.budget_bytes)}; "
                "generate fewer tokens, name the columns you need in keys, or raise budget_bytes"
            )

    def finish(self, recording: Recording) -> None:
        """Check that all requested positions were read, and fill the recording.

        Raises:
            RecordingError: the model did not run in the block, or the prompt is too short for the request.
            ModelError: a recorded row is not finite.
        """
        if self._total is None:
            raise RecordingError(
                "nothing was recorded: the model was not run inside the `with record(...)` block, or was run in "
                "another thread; call the model in the block and in the same thread (a model that is run through the "
                "wrapper which torch.compile returned: give record() the wrapper)"
            )
        refuse_incomplete(self._is_incomplete)
        self._deferred.finish()
        prompt = self._prompt if self._prompt is not None else self._reached
        refuse_unreached(self.request, prompt)
        if self.request.decode and self._steps == 0 and self._pieces > 1 and self._end is None:
            refuse_unclear_end(self.request, prompt)
        if self._flow is None:
            prefill, decode = self._store.finished(self._columns(prompt))
        else:
            with torch.no_grad():
                prefill, decode = self._flow.rows(prompt, self._total if self.request.decode else prompt)
        if not all(bool(rows.sum().isfinite()) for rows in (*prefill, *decode)):
            raise overflow("a recorded row", self._dtype)
        elements = range(self.request.batch_size)
        statistics = [self._statistics.statistics(b) for b in elements]
        sinks = None
        if self.request.spec.residual_sinks:
            sinks = [self._statistics.sinks(b, prefill[b].shape[-1]) for b in elements]
        recording._complete(prefill, decode, statistics, sinks, self._learned.finished())

    @property
    def _is_incomplete(self) -> bool:
        """Whether a pass whose rows are wanted has failed; an interrupt skips `end_pass`."""
        return self._has_failed or (self._running and self._records)

    @property
    def _records(self) -> bool:
        """Whether rows of the newest pass are wanted."""
        return self.request.decode or not self._decoding

    # -- keys

    _defers = True
    """Whether rows of later decode steps may be computed for many layers and steps together."""

    def _columns(self, positions: int) -> int:
        """Columns of a whole row after a pass over some positions."""
        return positions

    def _refuse_keys(self, layer: int, call: AttentionCall) -> None:
        """Refuse a call whose keys are not those that columns stand for."""
        refuse_other_keys(layer, call, self._past, self._cache)

    # -- keeping

    def _wanted(self, call: AttentionCall, element: int, *, check: bool) -> tuple[Tensor, tuple[int, ...]]:
        """Return the requested queries: indices into this call's queries, and indices into the request's queries."""
        assert self._total is not None
        if self._decoding:
            return as_index((0,), call.query.device), (0,)
        chosen = [(slot, q) for slot, q in enumerate(self.request.queries[element]) if self._past <= q < self._total]
        rows = as_index([q - self._past for _, q in chosen], call.query.device)
        if check and chosen and (real := real_queries(call, element)) is not None:
            padding = [q for (_, q), ok in zip(chosen, real[rows.to(real.device)].tolist(), strict=True) if not ok]
            if padding:
                raise RecordingError(
                    f"query position {padding[0]} of batch element {element} is padding; positions count from the left "
                    "end of the padded prompt, so add the element's padding to positions in its own text"
                )
        return rows, tuple(slot for slot, _ in chosen)

    def _keep_rows(
        self, layer: int, call: AttentionCall, element: int, rows: Tensor, slots: tuple[int, ...], output: Tensor
    ) -> None:
        assert self._total is not None
        keys = self.request.keys
        columns = as_index(keys[element], rows.device) if keys is not None else None
        heads = as_index(self.request.spec.heads, rows.device) if self.request.spec.heads is not None else None
        suspects = checked(len(rows)) if not self._decoding or self._steps == 1 else []
        if self._flow is not None:  # rows are computed from all layers at the end
            rows, suspects = rows[suspects], list(range(len(suspects)))
        for part, weights in iter_rows(call, element, rows):
            own = [row - part.start for row in suspects if part.start <= row < part.stop]
            if own:
                few = as_index(own, rows.device)
                error = output_error(call, element, rows[part][few], weights.index_select(1, few), output)
                self._dtype = call.query.dtype
                self._errors.append((layer, self._dtype, error))
            if self._flow is not None:
                continue
            if call.sink_logits is not None and not self._decoding:
                self._learned.add(layer, element, slots[part], 1 - weights.sum(-1))
            kept = keep_columns(weights, columns, call.key_offset, self._columns(self._total))
            kept = kept if heads is None else kept.index_select(0, heads)
            self._store.add(layer, element, slots[part], kept, decode=self._decoding)

    def _is_decode(self, past: int, queries: int) -> bool:
        """Whether a pass is a decode step and not the prompt or a piece of it."""
        if self._end is not None:
            if past + queries <= self._end:
                return False
            if past < self._end:
                raise RecordingError(
                    f"one pass reads the end of the prompt ({self._end} positions) and {past + queries - self._end} "
                    "candidates after it, as assisted generation and prompt lookup do: record plain generation, or the "
                    "prompt's rows in a pass of model(**inputs)"
                )
        elif self._total is None or (self._steps == 0 and queries > 1):
            return False
        if queries > 1:
            if self.request.decode:
                raise RecordingError(
                    f"a decode step read {queries} positions at once, as assisted generation does: record plain "
                    "generation, or the prompt's rows in a pass of model(**inputs)"
                )
            return True
        if self._steps == 0:
            if self._end is None:
                refuse_unclear_end(self.request, past)
            self._prompt = past
            refuse_unreached(self.request, past)
        return True

    def _takes_back(self, past: int) -> bool:
        """Whether a pass after rejected candidates of assisted generation begins, none of whose rows are wanted."""
        return self._end is not None and past >= self._end and not self.request.decode
