"""Measure what recording costs: plain sdpa, recorded rows, and eager attention, on one random Qwen2.5-VL.

The prompt and decode steps (`evals.bench.decode`) are measured apart.

Time is wall-clock time of alternating runs in one process; a ratio is the median over rounds of a run's time over that
of the plain run of the same round. Memory is the peak resident size of one process per way of running, weights and
interpreter included.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from evals.bench.child import peak_bytes, run_child
from evals.bench.decode import DecodeSize, measure_decode, over_plain
from evals.bench.sizes import refuse_below_one, refuse_decoder
from grounding.errors import GroundingError, UsageError

Way = Literal["plain", "recorded", "eager"]
WAYS: tuple[Way, ...] = ("plain", "recorded", "eager")


@dataclass(frozen=True)
class BenchSize:
    """Size of the random Qwen2.5-VL and of the request.

    Attributes:
        layers: decoder layers.
        hidden: width of the decoder; each head is 128 wide where it divides evenly.
        heads: query heads.
        kv_heads: key and value heads.
        intermediate: width of the feed-forward layers.
        length: N, positions of the prompt.
        rows: rows recorded per layer and head, over all N columns, at the end of the prompt.
        decode_length: positions of the prompt whose decode steps are measured.
        decode_columns: columns kept of a decode step where not all are.
        decode_steps: counted decode steps per run.
    """

    layers: int = 12
    hidden: int = 1024
    heads: int = 8
    kv_heads: int = 2
    intermediate: int = 2048
    length: int = 4096
    rows: int = 10
    decode_length: int = 1024
    decode_columns: int = 576
    decode_steps: int = 64

    def refuse_impossible(self) -> None:
        """Refuse sizes of which there is no model or request.

        Raises:
            UsageError: a size is out of range.
        """
        refuse_decoder(layers=self.layers, hidden=self.hidden, heads=self.heads, kv_heads=self.kv_heads)
        refuse_below_one(
            intermediate=self.intermediate,
            length=self.length,
            rows=self.rows,
            decode_length=self.decode_length,
            decode_columns=self.decode_columns,
            decode_steps=self.decode_steps,
        )
        if self.rows > self.length or self.decode_columns > self.decode_length:
            raise UsageError(
                f"{self.rows} rows of {self.length} positions and {self.decode_columns} columns of "
                f"{self.decode_length} were asked for: neither can exceed its prompt's length"
            )


@dataclass(frozen=True)
class RecordBench:
    """Ratios to the plain run, and the raw numbers.

    Attributes:
        recorded_over_plain_time: median of the rounds' ratios; target at most 1.05.
        recorded_over_plain_memory: ratio of peak resident sizes; target at most 1.05.
        decode_all_columns_over_plain_time: of a decode step of which every column is kept; target at most 1.03.
        decode_some_columns_over_plain_time: the same with some columns.
        decode_reduced_over_plain_time: the same with their mean over layers and heads.
        eager_over_plain_time: median of the rounds' ratios; target at least 3.
        eager_over_plain_memory: ratio of peak resident sizes.
        size: what was run.
        plain_seconds: wall-clock of each plain run.
        recorded_seconds: wall-clock of each recorded run.
        eager_seconds: wall-clock of each eager run; fewer, since they are slow.
        decode_step_seconds: per way of keeping, the mean recorded and plain step of each round.
        cpu_over_plain: per way, ratio of median processor seconds, which depend less on other load than wall-clock.
        peak_bytes: peak resident size per way.
        loaded_bytes: resident peak before the first run, per way: interpreter, libraries and weights.
        kept_bytes: bytes of the recorded rows.
    """

    recorded_over_plain_time: float
    recorded_over_plain_memory: float
    decode_all_columns_over_plain_time: float
    decode_some_columns_over_plain_time: float
    decode_reduced_over_plain_time: float
    eager_over_plain_time: float
    eager_over_plain_memory: float
    size: BenchSize
    plain_seconds: tuple[float, ...]
    recorded_seconds: tuple[float, ...]
    eager_seconds: tuple[float, ...]
    decode_step_seconds: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    cpu_over_plain: dict[str, float] = field(default_factory=dict)
    peak_bytes: dict[str, int] = field(default_factory=dict)
    loaded_bytes: dict[str, int] = field(default_factory=dict)
    kept_bytes: int = 0


def measure_record(
    size: BenchSize | None = None,
    *,
    rounds: int = 5,
    eager_rounds: int = 2,
    progress: Callable[[str], None] | None = None,
) -> RecordBench:
    """Measure time and peak memory of recording.

    The model runs in child processes, so that each peak belongs to one way of running.

    Args:
        size: the model and the request; the defaults take about ten minutes and 10 GiB on two idle cores, nearly all
            of both for eager attention.
        rounds: alternating rounds of plain and recorded runs.
        eager_rounds: number of rounds in which eager attention runs as well.
        progress: called with a short sentence before each part.

    Raises:
        UsageError: rounds or a size out of range.
        GroundingError: a child process failed; the message has its last line.
    """
    size = size or BenchSize()
    size.refuse_impossible()
    if rounds < 1 or not 1 <= eager_rounds <= rounds:
        raise UsageError(f"eager_rounds={eager_rounds} must lie between 1 and rounds={rounds}")
    say = progress or (lambda _: None)
    say(f"time, {rounds} rounds")
    timed = _child("plain", size, rounds, eager_rounds)
    wall, cpu, memory = timed["wall"], timed["cpu"], {"plain": timed}
    for way in WAYS[1:]:
        say(f"memory of {way}")
        memory[way] = _child(way, size)
    say(f"decode steps, {rounds} rounds")
    steps = measure_decode(
        DecodeSize(
            layers=size.layers,
            hidden=size.hidden,
            heads=size.heads,
            kv_heads=size.kv_heads,
            intermediate=size.intermediate,
            length=size.decode_length,
            columns=size.decode_columns,
            steps=size.decode_steps,
        ),
        rounds,
    )
    medians = {way: statistics.median(cpu[way]) for way in WAYS}
    peak = {way: int(memory[way]["peak"]) for way in WAYS}
    return RecordBench(
        recorded_over_plain_time=_median_ratio(wall["recorded"], wall["plain"]),
        recorded_over_plain_memory=peak["recorded"] / peak["plain"],
        decode_all_columns_over_plain_time=over_plain(steps["all_columns"]),
        decode_some_columns_over_plain_time=over_plain(steps["some_columns"]),
        decode_reduced_over_plain_time=over_plain(steps["reduced"]),
        eager_over_plain_time=_median_ratio(wall["eager"], wall["plain"]),
        eager_over_plain_memory=peak["eager"] / peak["plain"],
        size=size,
        plain_seconds=tuple(wall["plain"]),
        recorded_seconds=tuple(wall["recorded"]),
        eager_seconds=tuple(wall["eager"]),
        decode_step_seconds=steps,
        cpu_over_plain={way: medians[way] / medians["plain"] for way in WAYS},
        peak_bytes={str(way): peak[way] for way in WAYS},
        loaded_bytes={str(way): int(memory[way]["loaded"]) for way in WAYS},
        kept_bytes=int(memory["recorded"]["kept"]),
    )


def _median_ratio(times: list[float], plain: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(times, plain, strict=False))


def _child(way: Way, size: BenchSize, rounds: int = 0, eager_rounds: int = 0) -> dict[str, Any]:
    order = {"way": way, "size": asdict(size), "rounds": rounds, "eager_rounds": eager_rounds}
    return run_child("evals.bench.record", order, way)


def _serve(order: dict[str, Any]) -> dict[str, Any]:
    """Carry out an order in the child process: peak memory of one way, then the times of all."""
    size = BenchSize(**order["size"])
    runner = _RecordRunner(size)
    loaded = peak_bytes()
    runner.run(order["way"])
    peak, kept = peak_bytes(), runner.kept_bytes
    wall: dict[str, list[float]] = {way: [] for way in WAYS}
    cpu: dict[str, list[float]] = {way: [] for way in WAYS}
    if order["rounds"]:
        runner.run("recorded")  # warm-up: the first run loads kernels
    for number in range(order["rounds"]):
        ways: list[Way] = ["plain", "recorded"] if number % 2 == 0 else ["recorded", "plain"]
        for way in [*ways, "eager"] if number < order["eager_rounds"] else ways:
            start, start_cpu = time.perf_counter(), time.process_time()
            runner.run(way)
            wall[way].append(time.perf_counter() - start)
            cpu[way].append(time.process_time() - start_cpu)
    return {"loaded": loaded, "peak": peak, "kept": kept, "wall": wall, "cpu": cpu}


class _RecordRunner:
    """A random Qwen2.5-VL and a prompt of random words."""

    def __init__(self, size: BenchSize) -> None:
        import torch

        from grounding.models.tiny import tiny_qwen2_5_vl

        self.model, processor = tiny_qwen2_5_vl(
            layers=size.layers,
            heads=size.heads,
            kv_heads=size.kv_heads,
            hidden=size.hidden,
            intermediate=size.intermediate,
        )
        torch.manual_seed(0)
        first_word = len(processor.tokenizer.all_special_ids)
        self.size = size
        self.ids = torch.randint(first_word, len(processor.tokenizer), (1, size.length))
        self.kept_bytes = 0

    def run(self, way: Way) -> None:
        import torch

        from grounding.attention import Recording, RowRequest, record

        options: dict[str, Any] = {"use_cache": False, "logits_to_keep": 1}
        block: AbstractContextManager[Recording | None] = nullcontext()
        self.model.set_attn_implementation("eager" if way == "eager" else "sdpa")
        if way == "recorded":
            rows = tuple(range(self.size.length - self.size.rows, self.size.length))
            block = record(self.model, RowRequest((rows,)))
        elif way == "eager":
            options["output_attentions"] = True
        with torch.no_grad(), block as recording:
            out = self.model(input_ids=self.ids, **options)
        if recording is not None:
            self.kept_bytes = sum(rows.numel() * rows.element_size() for rows in recording.prefill)
        if way == "eager" and len(out.attentions) != self.size.layers:
            raise GroundingError(f"eager attention returned {len(out.attentions)} layers, expected {self.size.layers}")


if __name__ == "__main__":
    print(json.dumps(_serve(json.loads(sys.argv[1]))))
