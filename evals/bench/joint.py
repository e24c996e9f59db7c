"""Measure what maps of a diffusion transformer cost, on one random transformer of FLUX's classes.

Five ways run the same pass: plain; recorded, maps of some text tokens as `grounding.attention.joint` keeps them;
joint, the same under the softmax over all keys; explicit, every block's whole softmax written out and cut to the same
maps; and peer, the package attention-map-diffusers, where it is installed, which keeps maps of the double blocks alone.

Time is wall-clock time of alternating runs in one process; a ratio is the median over rounds. Memory is the peak of
one process per way: the resident size on a CPU, the allocator's peak on a GPU. Extra memory is what a way's peak
exceeds the plain run's by, at least the bytes of the recorded maps.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any, Literal

from evals.bench.child import peak_bytes, run_child
from grounding.errors import GroundingError

JointWay = Literal["plain", "recorded", "joint", "explicit", "peer"]
JOINT_WAYS: tuple[JointWay, ...] = ("plain", "recorded", "joint", "explicit", "peer")
PEER = "attention_map_diffusers"


@dataclass(frozen=True)
class JointBenchSize:
    """Size of the random transformer and of the maps.

    Attributes:
        double_blocks: blocks with separate weights for text and image.
        single_blocks: blocks with shared weights.
        heads: attention heads.
        head_width: channels of a head, a multiple of 8.
        side: image cells along each side.
        text: text tokens.
        tokens: text tokens whose maps are kept, heads averaged.
        device: `cpu` or `cuda`.
        dtype: `float32`, `bfloat16` or `float16`.
    """

    double_blocks: int = 8
    single_blocks: int = 8
    heads: int = 24
    head_width: int = 64
    side: int = 48
    text: int = 128
    tokens: int = 16
    device: str = "cpu"
    dtype: str = "float32"


@dataclass(frozen=True)
class JointBench:
    """Ratios, and the raw numbers; those of the peer are NaN where it is not installed.

    Attributes:
        recorded_over_plain_time: median of the rounds' ratios; target at most 1.10.
        joint_over_plain_time: median of the rounds' ratios, under the softmax over all keys.
        explicit_over_plain_time: median of the rounds' ratios.
        explicit_over_recorded_memory: ratio of extra memory; target at least 10.
        peer_over_recorded_time: median of the rounds' ratios of time over the plain run's.
        peer_over_recorded_memory: ratio of extra memory.
        size: what was run.
        peer: the peer's version, or None.
        seconds: per way, wall-clock of each run.
        peak_bytes: per way.
        extra_bytes: per way but `plain`.
        kept_bytes: bytes of the recorded maps.
        largest_difference: between the explicit maps and the `joint` ones, which are the same weights.
        peer_difference: between the explicit maps and the peer's.
    """

    recorded_over_plain_time: float
    joint_over_plain_time: float
    explicit_over_plain_time: float
    explicit_over_recorded_memory: float
    peer_over_recorded_time: float
    peer_over_recorded_memory: float
    size: JointBenchSize
    peer: str | None
    seconds: dict[str, tuple[float, ...]] = field(default_factory=dict)
    peak_bytes: dict[str, int] = field(default_factory=dict)
    extra_bytes: dict[str, int] = field(default_factory=dict)
    kept_bytes: int = 0
    largest_difference: float = math.nan
    peer_difference: float = math.nan


def measure_joint(
    size: JointBenchSize | None = None, *, rounds: int = 3, progress: Callable[[str], None] | None = None
) -> JointBench:
    """Measure time and peak memory of maps of a diffusion transformer.

    Args:
        size: transformer and maps; the defaults take about fifteen minutes and 9 GiB on two idle cores.
        rounds: alternating rounds of all ways.
        progress: called with a short sentence before each part.

    Raises:
        GroundingError: rounds below 1, or a child process failed; the message has its last line.
    """
    size = size or JointBenchSize()
    if rounds < 1:
        raise GroundingError(f"rounds={rounds} was given, expected at least 1")
    say = progress or (lambda _: None)
    ways = [way for way in JOINT_WAYS if way != "peer" or find_spec(PEER) is not None]
    memory: dict[str, dict[str, Any]] = {}
    for way in ways:
        say(f"memory of {way}")
        memory[way] = run_child("evals.bench.joint", {"way": way, "size": asdict(size), "rounds": 0}, way)
    say(f"time, {rounds} rounds")
    timed = run_child("evals.bench.joint", {"ways": ways, "size": asdict(size), "rounds": rounds}, "time")
    seconds: dict[str, list[float]] = timed["seconds"]
    over = {way: statistics.median(a / b for a, b in zip(seconds[way], seconds["plain"], strict=True)) for way in ways}
    peak = {str(way): int(memory[way]["peak"]) for way in ways}
    kept = int(memory["recorded"]["kept"])
    extra = {way: max(peak[way] - peak["plain"], kept) for way in peak if way != "plain"}
    return JointBench(
        recorded_over_plain_time=over["recorded"],
        joint_over_plain_time=over["joint"],
        explicit_over_plain_time=over["explicit"],
        explicit_over_recorded_memory=extra["explicit"] / extra["recorded"],
        peer_over_recorded_time=over["peer"] / over["recorded"] if "peer" in over else math.nan,
        peer_over_recorded_memory=extra["peer"] / extra["recorded"] if "peer" in extra else math.nan,
        size=size,
        peer=_peer_version(),
        seconds={str(way): tuple(seconds[way]) for way in ways},
        peak_bytes=peak,
        extra_bytes=extra,
        kept_bytes=kept,
        largest_difference=float(timed["difference"]["joint"]),
        peer_difference=float(timed["difference"].get("peer", math.nan)),
    )


def _peer_version() -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(PEER.replace("_", "-"))
    except PackageNotFoundError:
        return None


def _serve(order: dict[str, Any]) -> dict[str, Any]:
    """Carry out an order in the child process: peak memory of one way, or the times of all."""
    runner = _JointRunner(JointBenchSize(**order["size"]))
    if not order["rounds"]:
        maps = runner.run(order["way"])
        return {"peak": runner.peak(), "kept": 0 if maps is None else maps.numel() * maps.element_size()}
    ways: list[JointWay] = order["ways"]
    kept = {way: runner.run(way) for way in ways}  # also the warm-up: the first run loads kernels
    explicit = kept["explicit"].float().cpu()
    difference = {
        way: float((explicit[: len(kept[way])] - kept[way].float().cpu()).abs().max())
        for way in ways
        if way in ("joint", "peer")
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(order["rounds"]):
        for way in ways if number % 2 == 0 else reversed(ways):
            started = time.perf_counter()
            runner.run(way)
            runner.wait()
            seconds[way].append(time.perf_counter() - started)
    return {"seconds": seconds, "difference": difference}


class _JointRunner:
    """A random transformer of FLUX's classes, a noisy picture and text states."""

    def __init__(self, size: JointBenchSize) -> None:
        import torch
        from diffusers import FluxTransformer2DModel

        self.size = size
        dtype, width = getattr(torch, size.dtype), size.head_width
        with torch.device(size.device):
            torch.manual_seed(0)
            self.transformer = FluxTransformer2DModel(
                in_channels=64,
                num_layers=size.double_blocks,
                num_single_layers=size.single_blocks,
                attention_head_dim=width,
                num_attention_heads=size.heads,
                joint_attention_dim=256,
                pooled_projection_dim=64,
                axes_dims_rope=(width // 4, 3 * width // 8, 3 * width // 8),
            )
            self.transformer = self.transformer.to(dtype).eval()
            rows, columns = torch.meshgrid(torch.arange(size.side), torch.arange(size.side), indexing="ij")
            cells = size.side**2
            self.inputs = {
                "hidden_states": torch.randn(1, cells, 64, dtype=dtype),
                "encoder_hidden_states": torch.randn(1, size.text, 256, dtype=dtype),
                "pooled_projections": torch.randn(1, 64, dtype=dtype),
                "timestep": torch.full((1,), 0.5, dtype=dtype),
                "img_ids": torch.stack([torch.zeros_like(rows), rows, columns], -1).reshape(cells, 3).to(dtype),
                "txt_ids": torch.zeros(size.text, 3, dtype=dtype),
                "return_dict": False,
            }
        self._kept: list[Any] = []

    @property
    def layers(self) -> list[Any]:
        blocks = (*self.transformer.transformer_blocks, *self.transformer.single_transformer_blocks)
        return [block.attn for block in blocks]

    def run(self, way: JointWay) -> Any:
        """Run one pass; returns maps [L, X, tokens], heads averaged, or None of a plain run."""
        import torch

        with torch.inference_mode():
            if way == "peer":
                return self._peer()
            if way in ("recorded", "joint"):
                return self._recorded("text" if way == "recorded" else "joint")
            return self._explicit() if way == "explicit" else self._plain()

    def peak(self) -> int:
        """Peak bytes of this process so far, on the device."""
        import torch

        return torch.cuda.max_memory_allocated() if self.size.device == "cuda" else peak_bytes()

    def wait(self) -> None:
        """Wait for the device."""
        import torch

        if self.size.device == "cuda":
            torch.cuda.synchronize()

    def _plain(self) -> None:
        self.transformer(**self.inputs)

    def _recorded(self, order: Any) -> Any:
        from grounding.attention.joint import JointRequest, record_joint
        from grounding.record_spec import RecordSpec

        size = self.size
        request = JointRequest(
            cells=tuple(range(size.text, size.text + size.side**2)),
            text=tuple(range(size.tokens)),
            order=order,
            spec=RecordSpec(reduce="heads"),
        )
        with record_joint(self.transformer, self.layers, request) as recording:
            self.transformer(**self.inputs)
        return recording.table("image-to-text")[0, :, 0]

    def _explicit(self) -> Any:
        import torch

        from grounding.compat import dispatched_kernels

        kept: list[Any] = []
        size = self.size

        def attend(query: Any, key: Any, value: Any, scale: float | None = None, **_: Any) -> Any:
            q, k, v = (x.transpose(1, 2) for x in (query, key, value))
            logits = q.float() @ k.float().transpose(-1, -2) * (scale or q.shape[-1] ** -0.5)
            weights = logits.softmax(-1)  # [1, H, N, N]
            kept.append(weights[0, :, size.text :, : size.tokens].mean(0).cpu())
            return (weights.to(v.dtype) @ v).transpose(1, 2)

        with dispatched_kernels(lambda name, kernel, arguments: attend):
            self.transformer(**self.inputs)
        return torch.stack(kept)

    def _peer(self) -> Any:
        import torch
        from attention_map_diffusers import AttentionCapture

        pipeline = SimpleNamespace(transformer=self.transformer)
        with AttentionCapture(pipeline, relations="image->text", key_indices=range(self.size.tokens)) as capture:
            self.transformer(**self.inputs)
        return torch.stack([record.data[0, 0] for record in capture.compute()])


if __name__ == "__main__":
    print(json.dumps(_serve(json.loads(sys.argv[1]))))
