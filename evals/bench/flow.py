"""Measure attention flow by rows against attention flow by N x N matrices, on the same random queries and keys.

Two ways compute one row of VL-SAM's regularised flow: flow, `grounding.attention.flow.flow_rows`; rollout, the
published formula as batched products, with every head's N x N softmax and one N x N product a layer, in buffers that
are made once.

Time is wall-clock time of alternating runs in one process per length; a ratio is the median over rounds. Memory is what
a process's peak exceeds the peak before the run by, when all queries and keys exist already, at least the bytes of the
result: the resident size on a CPU, the allocator's peak on a GPU.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from evals.bench.child import peak_bytes, run_child
from evals.bench.sizes import refuse_below_one
from grounding.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

FlowWay = Literal["flow", "rollout"]
FLOW_WAYS: tuple[FlowWay, ...] = ("flow", "rollout")


@dataclass(frozen=True)
class FlowBenchSize:
    """Size of the queries and keys.

    Attributes:
        lengths: N, positions of the sequence, each measured by itself.
        layers: layers that the flow runs through.
        heads: query heads.
        kv_heads: key heads.
        head_width: channels of a head.
        device: `cpu` or `cuda`.
    """

    lengths: tuple[int, ...] = (1024, 2048, 4096)
    layers: int = 16
    heads: int = 16
    kv_heads: int = 16
    head_width: int = 64
    device: str = "cpu"

    def refuse_impossible(self) -> None:
        """Refuse sizes of which there are no queries and keys.

        Raises:
            UsageError: a size is out of range.
        """
        refuse_below_one(layers=self.layers, heads=self.heads, kv_heads=self.kv_heads, head_width=self.head_width)
        if not self.lengths or min(self.lengths) < 1 or len(set(self.lengths)) != len(self.lengths):
            raise UsageError(
                f"--lengths {' '.join(map(str, self.lengths))} was given, expected different numbers from 1"
            )
        if self.heads % self.kv_heads:
            raise UsageError(
                f"--heads {self.heads} cannot share --kv-heads {self.kv_heads}: give a number of heads that it divides"
            )


@dataclass(frozen=True)
class FlowBenchLength:
    """Ratios and raw numbers of one length.

    Attributes:
        rollout_over_flow_time: median of the rounds' ratios; target at least 5 at 4096 positions.
        rollout_over_flow_memory: ratio of extra memory; target at least 20 at 4096 positions.
        max_abs_difference: between the two rows; target at most 1e-5.
        seconds: per way, wall-clock of each run.
        extra_bytes: per way, peak memory beyond the queries and keys.
        cache_bytes: of the queries and keys, which both ways are given.
    """

    rollout_over_flow_time: float
    rollout_over_flow_memory: float
    max_abs_difference: float
    seconds: dict[str, tuple[float, ...]]
    extra_bytes: dict[str, int]
    cache_bytes: int


@dataclass(frozen=True)
class FlowBench:
    """What was measured, by length.

    Attributes:
        lengths: results by N as text.
        size: what was run.
        threads: of a CPU.
    """

    lengths: dict[str, FlowBenchLength]
    size: FlowBenchSize
    threads: int = field(default=1)

    def ratios(self) -> dict[str, float]:
        """Return the numbers that can be checked against committed ones, `NAME_LENGTH`."""
        names = ("rollout_over_flow_time", "rollout_over_flow_memory", "max_abs_difference")
        return {f"{name}_{n}": float(getattr(one, name)) for n, one in self.lengths.items() for name in names}


def measure_flow(
    size: FlowBenchSize | None = None, *, rounds: int = 3, progress: Callable[[str], None] | None = None
) -> FlowBench:
    """Measure time and peak memory of attention flow.

    Args:
        size: queries and keys; the defaults take about ten minutes and 4 GiB on two idle cores, nearly all of both
            for the N x N matrices.
        rounds: alternating rounds of both ways.
        progress: called with a short sentence before each part.

    Raises:
        UsageError: rounds or a size out of range.
        GroundingError: a child process failed; the message has its last line.
    """
    size = size or FlowBenchSize()
    size.refuse_impossible()
    if rounds < 1:
        raise UsageError(f"--rounds {rounds} was given, expected at least 1")
    say = progress or (lambda _: None)
    found, threads = {}, 1
    for length in size.lengths:
        one = asdict(replace(size, lengths=(length,)))
        extra, cache = {}, 0
        for way in FLOW_WAYS:
            say(f"memory of {way}, {length} positions")
            memory = run_child("evals.bench.flow", {"way": way, "size": one}, f"memory of {way}")
            extra[str(way)], cache = int(memory["extra"]), int(memory["cache"])
        say(f"time, {length} positions, {rounds} rounds")
        timed = run_child("evals.bench.flow", {"rounds": rounds, "size": one}, "time")
        seconds: dict[str, list[float]] = timed["seconds"]
        threads = int(timed["threads"])
        found[str(length)] = FlowBenchLength(
            rollout_over_flow_time=statistics.median(
                a / b for a, b in zip(seconds["rollout"], seconds["flow"], strict=True)
            ),
            rollout_over_flow_memory=extra["rollout"] / extra["flow"],
            max_abs_difference=float(timed["difference"]),
            seconds={way: tuple(seconds[way]) for way in FLOW_WAYS},
            extra_bytes=extra,
            cache_bytes=cache,
        )
    return FlowBench(found, size, threads)


def _serve(order: dict[str, Any]) -> dict[str, Any]:
    """Carry out an order in the child process: peak memory of one way, or the times of both and their difference."""
    import torch

    runner = _FlowRunner(FlowBenchSize(**order["size"]))
    if "way" in order:
        before = runner.peak()
        row = runner.run(order["way"])
        return {"extra": max(runner.peak() - before, row.numel() * 4), "cache": runner.cache_bytes}
    seconds: dict[str, list[float]] = {way: [] for way in FLOW_WAYS}
    rows: dict[str, Tensor] = {}
    small = _FlowRunner(replace(runner.size, lengths=(min(256, runner.size.lengths[0]),), layers=1))
    for way in FLOW_WAYS:
        small.run(way)  # the first run loads kernels
    for number in range(order["rounds"]):
        for way in FLOW_WAYS if number % 2 == 0 else reversed(FLOW_WAYS):
            started = time.perf_counter()
            rows[way] = runner.run(way).cpu()
            seconds[way].append(time.perf_counter() - started)
    difference = float((rows["flow"].cpu() - rows["rollout"].cpu()).abs().max())
    return {"seconds": seconds, "difference": difference, "threads": torch.get_num_threads()}


class _FlowRunner:
    """Random queries and keys of every layer; the row is that of the last position."""

    def __init__(self, size: FlowBenchSize) -> None:
        import torch

        from grounding.attention.call import AttentionCall

        self.size, self._length = size, size.lengths[0]
        random = torch.Generator(size.device).manual_seed(0)

        def made(heads: int) -> Tensor:
            shape = (1, heads, self._length, size.head_width)
            return torch.randn(shape, generator=random, device=size.device)

        self._layers = []
        for _ in range(size.layers):
            query, key = made(size.heads), made(size.kv_heads)
            self._layers.append(AttentionCall(query, key, key[..., :0], None, scale=size.head_width**-0.5, causal=True))
        self.cache_bytes = sum(call.query.nbytes + call.key.nbytes for call in self._layers)

    def run(self, way: FlowWay) -> Tensor:
        """Return F[N - 1] [N]."""
        import torch

        with torch.inference_mode():
            return self._flow() if way == "flow" else self._rollout()

    def peak(self) -> int:
        """Peak bytes of this process so far, on the device."""
        import torch

        return torch.cuda.max_memory_allocated() if self.size.device == "cuda" else peak_bytes()

    def _flow(self) -> Tensor:
        import torch

        from grounding.attention.flow import flow_rows
        from grounding.attention_flow import AttentionFlow

        last = torch.tensor([self._length - 1], device=self.size.device)
        return flow_rows(([call] for call in reversed(self._layers)), [last], self._length, AttentionFlow())[0][0]

    def _rollout(self) -> Tensor:
        import torch

        size, n = self.size, self._length
        mask = torch.full((n, n), -torch.inf, device=size.device).triu_(1)
        factors = torch.arange(1, n + 1, device=size.device) / n
        logits, weights = (torch.empty(size.heads, n, n, device=size.device) for _ in range(2))
        rollout, product = (torch.zeros(n, n, device=size.device) for _ in range(2))
        for call in self._layers:
            query, key = call.query[0], call.key[0].repeat_interleave(size.heads // size.kv_heads, dim=0)
            torch.baddbmm(mask, query, key.transpose(1, 2), alpha=call.scale, out=logits)
            torch.softmax(logits, dim=-1, out=weights)
            share = weights.amax(dim=-1).mean(dim=-1)
            joined = torch.matmul(share, weights.view(size.heads, -1)).view(n, n).div_(size.heads).mul_(factors)
            joined.diagonal().add_(1)
            rollout.diagonal().add_(1)
            torch.matmul(joined, rollout, out=product)
            rollout, product = product, rollout
        return rollout[-1]


if __name__ == "__main__":
    print(json.dumps(_serve(json.loads(sys.argv[1]))))
