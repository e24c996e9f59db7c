"""Measure what steering costs: `generate` plain, steered, with PAI as published and with VCD, on a random Qwen2.5-VL.

Speeds are wall-clock, from alternating runs in one process; a ratio is the median over rounds of a run's speed over
that of the plain run of the same round. Memory is the peak resident size of one process per way of running.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from evals.bench.child import peak_bytes, run_child
from evals.bench.sizes import refuse_below_one, refuse_decoder
from grounding.errors import GroundingError, UsageError

if TYPE_CHECKING:
    from grounding.steering.method import Steering

Way = Literal["plain", "steered", "pai", "vcd"]
WAYS: tuple[Way, ...] = ("plain", "steered", "pai", "vcd")

_PAI_ALPHA, _PAI_FIRST_LAYER = 0.2, 2  # PAI's README
_IMAGE_KEYS: ContextVar[Any] = ContextVar("grounding_bench_image_keys", default=None)


@dataclass(frozen=True)
class SteerBenchSize:
    """Size of the random Qwen2.5-VL, of its picture and of the answer, and the steering method.

    Attributes:
        layers: decoder layers.
        hidden: width of the decoder; its feed-forward layers are twice as wide.
        heads: query heads.
        kv_heads: key and value heads.
        image_tokens: tokens of the one picture.
        new_tokens: tokens generated per run, at least 2.
        steer: what is measured as `steered`: a shipped steering method's name, the path of a file, or `head-gains`,
            random gains for every head, since fitted gains belong to one model.
    """

    layers: int = 12
    hidden: int = 1024
    heads: int = 8
    kv_heads: int = 2
    image_tokens: int = 2000
    new_tokens: int = 64
    steer: str = "head-gains"

    def refuse_impossible(self) -> None:
        """Refuse sizes of which there is no model or answer.

        Raises:
            UsageError: a size is out of range.
        """
        refuse_decoder(layers=self.layers, hidden=self.hidden, heads=self.heads, kv_heads=self.kv_heads)
        if self.image_tokens < 4 or self.new_tokens < 2:
            raise UsageError(
                f"image_tokens={self.image_tokens} and new_tokens={self.new_tokens} were given, expected at least 4 "
                "and 2"
            )


@dataclass(frozen=True)
class SteerBench:
    """Ratios to the plain run, and the raw numbers. `pai` is eager attention and a text-only pass.

    Attributes:
        steered_over_plain_speed: tokens per second of whole calls of `generate`; target at least 0.97.
        steered_over_plain_decode_speed: tokens per second after the first token.
        speed_over_plain: per way, of whole calls.
        decode_speed_over_plain: per way, after the first token.
        memory_over_plain: per way, ratio of peak resident sizes.
        size: what was run.
        tokens_per_second: per way and round, of whole calls.
        decode_tokens_per_second: per way and round, after the first token.
        prefill_seconds: per way and round, until the first token.
        peak_bytes: per way.
    """

    steered_over_plain_speed: float
    steered_over_plain_decode_speed: float
    speed_over_plain: dict[str, float]
    decode_speed_over_plain: dict[str, float]
    memory_over_plain: dict[str, float]
    size: SteerBenchSize
    tokens_per_second: dict[str, list[float]]
    decode_tokens_per_second: dict[str, list[float]]
    prefill_seconds: dict[str, list[float]]
    peak_bytes: dict[str, int]


def measure_steer(
    size: SteerBenchSize | None = None,
    *,
    rounds: int = 3,
    ways: Sequence[Way] = WAYS,
    progress: Callable[[str], None] | None = None,
) -> SteerBench:
    """Measure speed and peak memory of `generate`, steered and not.

    Args:
        size: the model, the picture and the steering method.
        rounds: alternating rounds of all ways.
        ways: ways to measure; `plain` and `steered` are always included.
        progress: called with a short sentence before each part.

    Raises:
        UsageError: rounds or a size out of range.
        GroundingError: an unknown steering method, or a child process failed.
    """
    size = size or SteerBenchSize()
    size.refuse_impossible()
    refuse_below_one(rounds=rounds)
    _steering(size)  # refuse a wrong name before minutes have passed
    say = progress or (lambda _: None)
    ways = [way for way in WAYS if way in ("plain", "steered", *ways)]
    say(f"time, {rounds} rounds")
    timed = _child(ways, size, rounds)
    runs, peak = timed["runs"], {"plain": int(timed["peak"])}
    for way in ways[1:]:
        say(f"memory of {way}")
        peak[way] = int(_child([way], size, 0)["peak"])
    whole = {way: [size.new_tokens / (first + rest) for first, rest in runs[way]] for way in ways}
    decode = {way: [(size.new_tokens - 1) / rest for _, rest in runs[way]] for way in ways}
    speed, decode_speed = _over_plain(whole), _over_plain(decode)
    return SteerBench(
        steered_over_plain_speed=speed["steered"],
        steered_over_plain_decode_speed=decode_speed["steered"],
        speed_over_plain=speed,
        decode_speed_over_plain=decode_speed,
        memory_over_plain={way: peak[way] / peak["plain"] for way in ways},
        size=size,
        tokens_per_second={str(way): values for way, values in whole.items()},
        decode_tokens_per_second={str(way): values for way, values in decode.items()},
        prefill_seconds={way: [first for first, _ in runs[way]] for way in ways},
        peak_bytes=peak,
    )


def _over_plain(speeds: dict[Way, list[float]]) -> dict[str, float]:
    plain = speeds["plain"]
    return {way: statistics.median(a / b for a, b in zip(found, plain, strict=True)) for way, found in speeds.items()}


def _child(ways: Sequence[Way], size: SteerBenchSize, rounds: int) -> dict[str, Any]:
    return run_child("evals.bench.steer", {"ways": ways, "size": asdict(size), "rounds": rounds}, ", ".join(ways))


def _serve(order: dict[str, Any]) -> dict[str, Any]:
    """Carry out an order in the child process: peak memory of the first way, times of all."""
    runner = _SteerRunner(SteerBenchSize(**order["size"]))
    ways = order["ways"]
    runner.run(ways[0])
    peak = peak_bytes()
    for way in ways[1:] if order["rounds"] else ():
        runner.run(way)  # warm-up: the first run loads kernels
    runs: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    for number in range(order["rounds"]):
        for way in ways if number % 2 == 0 else reversed(ways):
            runs[way].append(runner.run(way))
    return {"peak": peak, "runs": runs}


def _steering(size: SteerBenchSize) -> Steering:
    """Load or draw the steering method to measure."""
    import numpy as np

    from grounding.steering.head_gains import HeadGains
    from grounding.steering.method import Steering, load_steering

    if size.steer != HeadGains.name:
        return load_steering(size.steer)
    drawn = np.exp(np.random.default_rng(0).normal(size=(2, size.layers, size.heads)))
    image, text = (tuple(tuple(float(gain) for gain in row) for row in table) for table in drawn)
    return Steering(HeadGains.name, "", "", (HeadGains(image=image, text=text),))


class _Clock:
    """A streamer that records when tokens arrive; the first call is the prompt."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, tokens: Any) -> None:
        self.times.append(time.perf_counter())

    def end(self) -> None:
        pass


class _SteerRunner:
    """A random Qwen2.5-VL that never ends its text, and a picture of noise."""

    def __init__(self, size: SteerBenchSize) -> None:
        import numpy as np
        from PIL import Image

        from grounding.models.qwen_vl import QwenVL
        from grounding.models.tiny import tiny_qwen2_5_vl
        from grounding.steering.baselines.pai import TextGuidance
        from grounding.steering.decoding import Decoding
        from grounding.steering.method import Steering, load_steering

        model, processor = tiny_qwen2_5_vl(
            layers=size.layers,
            heads=size.heads,
            kv_heads=size.kv_heads,
            hidden=size.hidden,
            max_pixels=28 * 28 * size.image_tokens,
        )
        model.generation_config.eos_token_id = None
        self.size = size
        self.vlm = QwenVL(model, processor, "random")
        self.decoding = Decoding(max_new_tokens=size.new_tokens)
        self.steering = {
            "plain": None,
            "steered": _steering(size),
            "pai": Steering("pai", "", "", (TextGuidance(),)),
            "vcd": load_steering("vcd"),
        }
        rows = max(d for d in range(1, math.isqrt(size.image_tokens) + 1) if size.image_tokens % d == 0)
        shape = (rows * 28, size.image_tokens // rows * 28, 3)
        self.image = Image.fromarray(np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8))
        found = self.vlm.prepare_questions([self.image], ["describe the image"]).layouts[0].image
        if len(found) != size.image_tokens:
            raise GroundingError(f"the picture has {len(found)} tokens, expected {size.image_tokens}: choose 4 or more")
        self.image_keys = found

    def run(self, way: Way) -> tuple[float, float]:
        """Return the seconds until the first token, and from it to the last."""
        from grounding.steering.generate import generate

        clock = _Clock()
        with _published_pai(self.vlm, self.image_keys) if way == "pai" else nullcontext():
            start = time.perf_counter()
            generate(self.vlm, [self.image], ["describe the image"], self.steering[way], self.decoding, streamer=clock)
        made = len(clock.times) - 1
        if made != self.size.new_tokens:
            raise GroundingError(f"{way} made {made} tokens, expected {self.size.new_tokens}: it cannot be compared")
        return clock.times[1] - start, clock.times[-1] - clock.times[1]


@contextmanager
def _published_pai(vlm: Any, image_keys: Any) -> Iterator[None]:
    """Eager attention in the decoder with `S += alpha |S|` on the newest row's image keys, as PAI's code has it.

    The prompt's forward pass is not boosted, since PAI's guidance is on; nor is the text-only branch, in whose context
    the image keys are not set.
    """
    import torch
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

    name = "grounding_bench_pai"

    def attend(
        module: Any, query: Any, key: Any, value: Any, mask: Any, scaling: float, **options: Any
    ) -> tuple[Any, Any]:
        groups = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
        scores = torch.matmul(query, key.transpose(2, 3)) * scaling
        if mask is not None:
            scores = scores + mask
        keys = _IMAGE_KEYS.get()
        if keys is not None and query.shape[2] == 1 and module.layer_idx >= _PAI_FIRST_LAYER:
            scores[:, :, -1, keys] += _PAI_ALPHA * scores[:, :, -1, keys].abs()
        weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
        return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights

    AttentionInterface.register(name, attend)
    AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS["eager"])
    token = _IMAGE_KEYS.set(torch.as_tensor(image_keys, device=vlm.device))
    vlm.model.set_attn_implementation({"text_config": name})
    try:
        yield
    finally:
        vlm.model.set_attn_implementation({"text_config": "sdpa"})
        _IMAGE_KEYS.reset(token)
        AttentionInterface._global_mapping.pop(name, None)
        AttentionMaskInterface._global_mapping.pop(name, None)


if __name__ == "__main__":
    print(json.dumps(_serve(json.loads(sys.argv[1]))))
