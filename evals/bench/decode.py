"""Measure what recording costs a decode step, with one row a step kept in three ways.

A run reads the prompt twice, recorded and plain, and then makes single steps with either cache in turn, so that both
meet the same load of the machine; a ratio is the median over runs of the mean recorded step over the mean plain one.
The mean counts the steps in which rows of several steps are computed together, as often as they occur.
"""

from __future__ import annotations

import copy
import json
import statistics
import sys
import time
from collections.abc import Callable
from contextvars import Context, copy_context
from dataclasses import asdict, dataclass
from typing import Any, Literal

from evals.bench.child import run_child

DecodeWay = Literal["all_columns", "some_columns", "reduced"]
DECODE_WAYS: tuple[DecodeWay, ...] = ("all_columns", "some_columns", "reduced")

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


def measure_decode(size: DecodeSize, rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Measure decode steps in a child process.

    Returns:
        Way → the mean recorded and the mean plain step of each run in seconds.

    Raises:
        GroundingError: the child process failed.
    """
    found: dict[str, list[tuple[float, float]]] = run_child(
        __name__, {"size": asdict(size), "rounds": rounds}, "decode steps"
    )
    return found


def over_plain(means: list[tuple[float, float]]) -> float:
    """Return the median over runs of the mean recorded step over the mean plain one."""
    return statistics.median(recorded / plain for recorded, plain in means)


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

    def run(self, way: DecodeWay) -> tuple[float, float]:
        """Return the mean seconds of the recorded and of the plain counted steps."""
        import torch

        from grounding.attention import RowRequest, record
        from grounding.record_spec import RecordSpec

        size = self.size
        keys = None if way == "all_columns" else (tuple(range(size.length - size.columns, size.length)),)
        request = RowRequest(
            ((size.length - 1,),),
            keys=keys,
            decode=True,
            decode_steps=size.steps + _WARM_UP,
            spec=RecordSpec(reduce="both" if way == "reduced" else "none"),
        )
        times: dict[bool, list[float]] = {True: [], False: []}
        outside = copy_context()
        with torch.inference_mode():
            plain_step = self._reader(_sharing_weights(self.model), outside)
            with record(self.model, request):
                recorded_step = self._reader(self.model, copy_context())
                for number in range(_WARM_UP + size.steps):
                    for recorded in (True, False) if number % 2 else (False, True):
                        times[recorded].append(recorded_step() if recorded else plain_step())
        return statistics.fmean(times[True][_WARM_UP:]), statistics.fmean(times[False][_WARM_UP:])

    def _reader(self, model: Any, context: Context) -> Callable[[], float]:
        """Read the prompt in a context; return a function that makes one step there and returns its seconds."""
        import torch
        from transformers import DynamicCache

        from grounding.compat import cache_argument

        synchronise = torch.cuda.synchronize if self.ids.device.type == "cuda" else lambda: None
        options: dict[str, Any] = {cache_argument(model): DynamicCache(), "use_cache": True, "logits_to_keep": 1}
        context.run(model, input_ids=self.ids, **options)

        def step() -> float:
            synchronise()
            start = time.perf_counter()
            context.run(model, input_ids=self.ids[:, :1], **options)
            synchronise()
            return time.perf_counter() - start

        return step


def _sharing_weights(model: Any) -> Any:
    """Copy a model but not its weights: a recording changes the modules of one and not of the other."""
    return copy.deepcopy(model, {id(weight): weight for weight in (*model.parameters(), *model.buffers())})


def repeat(runner: DecodeRunner, rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Run each way once a round; return way → the mean recorded and plain step of each run in seconds."""
    runner.run("reduced")  # warm-up: the first run loads kernels
    means: dict[str, list[tuple[float, float]]] = {way: [] for way in DECODE_WAYS}
    for _ in range(rounds):
        for way in DECODE_WAYS:
            means[way].append(runner.run(way))
    return means


if __name__ == "__main__":
    order = json.loads(sys.argv[1])
    print(json.dumps(repeat(DecodeRunner(DecodeSize(**order["size"])), order["rounds"])))
