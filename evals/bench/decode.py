"""Measure what recording costs a decode step: plain, and with one row a step kept in three ways.

Each run reads the prompt and then makes single steps, whose times are compared; a ratio is the median over rounds of
the mean step over that of the plain run of the same round. The mean counts the steps in which rows of several steps are
computed together, as often as they occur.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any, Literal

from evals.bench.child import run_child

DecodeWay = Literal["plain", "all_columns", "some_columns", "reduced"]
DECODE_WAYS: tuple[DecodeWay, ...] = ("plain", "all_columns", "some_columns", "reduced")

_WARM_UP = 4  # first steps of a run, whose times are not counted


@dataclass(frozen=True)
class DecodeSize:
    """Size of the random Qwen2.5-VL, of its prompt and of the rows.

    Attributes:
        layers: decoder layers.
        hidden: width of the decoder.
        heads: query heads.
        kv_heads: key and value heads.
        intermediate: width of the feed-forward layers.
        length: N, positions of the prompt.
        columns: columns kept by `some_columns` and `reduced`, the mean over layers and heads.
        steps: counted decode steps per run.
    """

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    intermediate: int
    length: int
    columns: int
    steps: int


def measure_decode(size: DecodeSize, rounds: int) -> dict[str, list[float]]:
    """Measure decode steps in a child process.

    Returns:
        Way → the mean step of each round in seconds.

    Raises:
        GroundingError: the child process failed.
    """
    found: dict[str, list[float]] = run_child(__name__, {"size": asdict(size), "rounds": rounds}, "decode steps")
    return found


def over_plain(times: dict[str, list[float]], way: DecodeWay) -> float:
    """Return the median over rounds of a way's step over the plain one's."""
    return statistics.median(own / plain for own, plain in zip(times[way], times["plain"], strict=True))


class DecodeRunner:
    """A random Qwen2.5-VL and a prompt of random words.

    Args:
        size: see `DecodeSize`.
        device: where the model runs.
        dtype: the model's dtype, by torch's name.
    """

    def __init__(self, size: DecodeSize, device: str = "cpu", dtype: str = "float32") -> None:
        import torch

        from grounding.models.tiny import tiny_qwen2_5_vl

        model, processor = tiny_qwen2_5_vl(
            layers=size.layers,
            heads=size.heads,
            kv_heads=size.kv_heads,
            hidden=size.hidden,
            intermediate=size.intermediate,
        )
        self.size = size
        self.model = model.to(device, getattr(torch, dtype))
        torch.manual_seed(0)
        first_word = len(processor.tokenizer.all_special_ids)
        self.ids = torch.randint(first_word, len(processor.tokenizer), (1, size.length)).to(device)

    def run(self, way: DecodeWay) -> list[float]:
        """Return the seconds of each counted step."""
        import torch
        from transformers import DynamicCache

        from grounding.attention import RowRequest, record
        from grounding.compat import cache_argument
        from grounding.record_spec import RecordSpec

        size, model = self.size, self.model
        keys = None if way == "all_columns" else (tuple(range(size.length - size.columns, size.length)),)
        request = RowRequest(
            ((size.length - 1,),),
            keys=keys,
            decode=True,
            decode_steps=size.steps + _WARM_UP,
            spec=RecordSpec(reduce="both" if way == "reduced" else "none"),
        )
        synchronise = torch.cuda.synchronize if self.ids.device.type == "cuda" else lambda: None
        options: dict[str, Any] = {cache_argument(model): DynamicCache(), "use_cache": True, "logits_to_keep": 1}
        times = []
        with torch.inference_mode(), nullcontext() if way == "plain" else record(model, request):
            model(input_ids=self.ids, **options)
            for _ in range(_WARM_UP + size.steps):
                synchronise()
                start = time.perf_counter()
                model(input_ids=self.ids[:, :1], **options)
                synchronise()
                times.append(time.perf_counter() - start)
        return times[_WARM_UP:]


def alternate(runner: DecodeRunner, rounds: int) -> dict[str, list[float]]:
    """Run all ways in alternation; return way → the mean step of each round in seconds."""
    runner.run("reduced")  # warm-up: the first run loads kernels
    times: dict[str, list[float]] = {way: [] for way in DECODE_WAYS}
    for number in range(rounds):
        for way in DECODE_WAYS if number % 2 == 0 else DECODE_WAYS[::-1]:
            times[way].append(statistics.fmean(runner.run(way)))
    return times


if __name__ == "__main__":
    order = json.loads(sys.argv[1])
    print(json.dumps(alternate(DecodeRunner(DecodeSize(**order["size"])), order["rounds"])))
