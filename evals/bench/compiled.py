"""Measure what recording costs a decode step of a compiled model, and how far it is from the uncompiled one.

The language model of a random Qwen2.5-VL is compiled whole (`torch.compile(fullgraph=True)`, inductor) and reads one
token a step from a static cache, plain and with one row of every layer and head recorded. A ratio is
the median over alternating rounds of mean steps in one child process; compiling is not counted.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any

from evals.bench.child import run_child
from evals.bench.decode import DecodeRunner, DecodeSize
from evals.bench.sizes import refuse_below_one, refuse_decoder

_WARM_UP = 3  # first steps of a run, which may compile


@dataclass(frozen=True)
class CompiledBenchSize:
    """Size of the random Qwen2.5-VL, of its prompt and of its text.

    Attributes:
        layers: decoder layers.
        hidden: width of the decoder.
        heads: query heads.
        kv_heads: key and value heads.
        intermediate: width of the feed-forward layers.
        length: N, positions of the prompt.
        steps: counted decode steps per run.
        backend: of `torch.compile`.
    """

    layers: int = 12
    hidden: int = 1024
    heads: int = 8
    kv_heads: int = 2
    intermediate: int = 2048
    length: int = 1024
    steps: int = 32
    backend: str = "inductor"

    def __post_init__(self) -> None:
        refuse_decoder(layers=self.layers, hidden=self.hidden, heads=self.heads, kv_heads=self.kv_heads)
        refuse_below_one(intermediate=self.intermediate, length=self.length, steps=self.steps)

    @property
    def decode(self) -> DecodeSize:
        """The same for a runner of decode steps."""
        return DecodeSize(
            layers=self.layers,
            hidden=self.hidden,
            heads=self.heads,
            kv_heads=self.kv_heads,
            intermediate=self.intermediate,
            length=self.length,
            columns=self.length,
            steps=self.steps,
        )


@dataclass(frozen=True)
class CompiledMeasurement:
    """What one measurement found.

    Attributes:
        size: what was measured.
        recorded_over_plain_time: a recorded step over a plain one, both compiled.
        compiled_over_uncompiled_time: a plain compiled step over a plain uncompiled one.
        logits_difference: largest difference of compiled recorded logits from uncompiled plain ones, in all steps.
        logits_difference_of_compiling: the same of compiled plain logits: the compiler's own share.
        rows_difference: largest difference of rows recorded in compiled code from those of uncompiled code.
        step_seconds: way → the mean step of each round in seconds.
    """

    size: dict[str, Any]
    recorded_over_plain_time: float
    compiled_over_uncompiled_time: float
    logits_difference: float
    logits_difference_of_compiling: float
    rows_difference: float
    step_seconds: dict[str, list[float]]


def measure_compiled(size: CompiledBenchSize, rounds: int) -> CompiledMeasurement:
    """Measure in a child process.

    Raises:
        GroundingError: the child process failed.
    """
    found = run_child(__name__, {"size": asdict(size), "rounds": rounds}, "compiled decode steps")
    return CompiledMeasurement(size=asdict(size), **found)


class CompiledRunner(DecodeRunner):
    """A random model whose language model is compiled where a run asks for it; see `DecodeRunner` for the arguments."""

    def __init__(self, size: CompiledBenchSize) -> None:
        super().__init__(size.decode)
        decoder = self.model.get_decoder()
        decoder.compile(fullgraph=True, dynamic=False, backend=size.backend)
        self.compiled_call = decoder._compiled_call_impl

    def steps(self, *, compiled: bool, recorded: bool) -> tuple[list[float], Any, Any]:
        """Read the prompt, then one token a step.

        Returns:
            Seconds of each counted step, logits [steps, V]; rows [steps, L, H, K], or None where not recorded.
        """
        import torch
        from transformers import StaticCache

        from grounding.attention import RowRequest, record
        from grounding.compat import cache_argument

        size, model = self.size, self.model
        request = RowRequest(((size.length - 1,),), decode=True, decode_steps=size.steps + _WARM_UP)
        cache = StaticCache(config=model.config.get_text_config(), max_cache_len=size.length + size.steps + _WARM_UP)
        options: dict[str, Any] = {cache_argument(model): cache, "use_cache": True, "logits_to_keep": 1}
        times, logits = [], []
        model.get_decoder()._compiled_call_impl = self.compiled_call if compiled else None
        with torch.inference_mode(), record(model, request) if recorded else nullcontext() as recording:
            model(input_ids=self.ids, **options)
            for _ in range(_WARM_UP + size.steps):
                start = time.perf_counter()
                step = model(input_ids=self.ids[:, :1], **options).logits[0, -1]
                times.append(time.perf_counter() - start)
                logits.append(step)
        rows = None if recording is None else recording.decode[0][:, :, :, 0]
        return times[_WARM_UP:], torch.stack(logits), rows


def compare(runner: CompiledRunner, rounds: int) -> dict[str, Any]:
    """Run all ways in alternation; return the fields of `CompiledMeasurement` but the size."""
    _, logits, rows = runner.steps(compiled=False, recorded=True)
    _, plain, _ = runner.steps(compiled=True, recorded=False)
    _, own, found = runner.steps(compiled=True, recorded=True)
    ways = {"uncompiled": (False, False), "plain": (True, False), "recorded": (True, True)}
    times: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(rounds):
        for way in list(ways) if number % 2 == 0 else list(ways)[::-1]:
            compiled, recorded = ways[way]
            times[way].append(statistics.mean(runner.steps(compiled=compiled, recorded=recorded)[0]))

    def over(one: str, other: str) -> float:
        return statistics.median(a / b for a, b in zip(times[one], times[other], strict=True))

    return {
        "recorded_over_plain_time": over("recorded", "plain"),
        "compiled_over_uncompiled_time": over("plain", "uncompiled"),
        "logits_difference": float((own - logits).abs().max()),
        "logits_difference_of_compiling": float((plain - logits).abs().max()),
        "rows_difference": float((found - rows).abs().max()),
        "step_seconds": times,
    }


if __name__ == "__main__":
    order = json.loads(sys.argv[1])
    print(json.dumps(compare(CompiledRunner(CompiledBenchSize(**order["size"])), order["rounds"])))
