"""Measure the rows of linear attention: their cost beside a plain pass, and their difference from a plain recurrence.

The language model is a random Qwen3.5 (three layers of the gated delta rule, then one of softmax attention) under
transformers' own functions. The recurrence runs position by position in float64, on the queries and keys that the first
layer gave its kernel, from one-hot values of some positions. A ratio is the median over alternating rounds.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from evals.bench.child import run_child
from evals.bench.sizes import refuse_below_one
from grounding.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from grounding.attention.linear_rows import DeltaCall


@dataclass(frozen=True)
class LinearBenchSize:
    """Size of the random Qwen3.5 and of its prompt.

    Attributes:
        layers: decoder layers, a multiple of 4.
        hidden: width of the decoder.
        heads: value heads of linear attention, even; half as many are key heads.
        head_width: width of their keys and values.
        length: N, positions of the prompt.
        rows: recorded rows, at the prompt's end.
        keys: positions whose weights are compared with the recurrence.
        device: `cpu` or `cuda`.
    """

    layers: int = 8
    hidden: int = 1024
    heads: int = 16
    head_width: int = 128
    length: int = 2048
    rows: int = 10
    keys: int = 64
    device: str = "cpu"

    def __post_init__(self) -> None:
        refuse_below_one(**{name: value for name, value in asdict(self).items() if name != "device"})
        if self.layers % 4 or self.heads % 2:
            raise UsageError(
                f"--layers {self.layers} --heads {self.heads} was given, expected a multiple of 4 and an even number"
            )
        if max(self.rows, self.keys) > self.length:
            raise UsageError(f"--rows {self.rows} --keys {self.keys} do not fit into --length {self.length}")


@dataclass(frozen=True)
class LinearMeasurement:
    """What one measurement found.

    Attributes:
        size: what was measured.
        recorded_over_plain_time: a pass with recorded rows over a plain one.
        logits_difference: largest difference of the recorded pass's logits from the plain pass's.
        weights_difference: largest difference of recorded weights from the recurrence's.
        largest_weight: largest absolute weight of the recurrence.
        negative_weights: share of recorded weights below 0.
        pass_seconds: way → seconds of each round.
    """

    size: dict[str, Any]
    recorded_over_plain_time: float
    logits_difference: float
    weights_difference: float
    largest_weight: float
    negative_weights: float
    pass_seconds: dict[str, list[float]]


def measure_linear(size: LinearBenchSize, rounds: int) -> LinearMeasurement:
    """Measure in a child process.

    Raises:
        GroundingError: the child process failed.
    """
    found = run_child(__name__, {"size": asdict(size), "rounds": rounds}, "rows of linear attention")
    return LinearMeasurement(size=asdict(size), **found)


class LinearRunner:
    """A random model and prompt."""

    def __init__(self, size: LinearBenchSize) -> None:
        import torch
        from transformers import Qwen3_5ForCausalLM, Qwen3_5TextConfig

        torch.manual_seed(0)
        config = Qwen3_5TextConfig(
            vocab_size=512,
            hidden_size=size.hidden,
            intermediate_size=2 * size.hidden,
            num_hidden_layers=size.layers,
            num_attention_heads=8,
            num_key_value_heads=2,
            head_dim=128,
            linear_num_value_heads=size.heads,
            linear_num_key_heads=size.heads // 2,
            linear_key_head_dim=size.head_width,
            linear_value_head_dim=size.head_width,
            pad_token_id=0,
        )
        self.size = size
        self.model = Qwen3_5ForCausalLM(config).eval().to(size.device)
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                if name.endswith("A_log"):
                    parameter.uniform_(-8, 0)  # heads that forget within a few positions and within thousands
        self.ids = torch.randint(1, 512, (1, size.length), device=size.device)

    def run(self, *, recorded: bool) -> tuple[float, Tensor, Any]:
        """Run one pass; return its seconds, logits [V], and rows [L, H, R, K] or None."""
        import torch

        from grounding.attention import RowRequest, record
        from grounding.record_spec import RecordSpec

        size = self.size
        queries = tuple(range(size.length - size.rows, size.length))
        request = RowRequest((queries,), spec=RecordSpec(attention="linear"))
        self._wait()
        start = time.perf_counter()
        with torch.inference_mode(), record(self.model, request) if recorded else nullcontext() as recording:
            logits = self.model(self.ids, use_cache=False, logits_to_keep=1).logits[0, -1]
        self._wait()
        rows = None if recording is None else recording.prefill[0]
        return time.perf_counter() - start, logits, rows

    def first_call(self) -> DeltaCall:
        """What the first layer gives its kernel."""
        import torch

        from grounding.attention.events import Scope, Subscriber
        from grounding.attention.intercept import intercept

        seen: list[DeltaCall] = []

        class First(Subscriber):
            def observe_linear(self, layer: int, call: DeltaCall, output: Tensor) -> None:
                seen.append(call)

        with torch.inference_mode(), intercept(self.model, First(), Scope(linear=(0,))):
            self.model(self.ids, use_cache=False, logits_to_keep=1)
        return seen[0]

    def _wait(self) -> None:
        import torch

        if self.size.device == "cuda":
            torch.cuda.synchronize()


def recurrence(call: DeltaCall, keys: Tensor, rows: int) -> Tensor:
    """Weights [H, R, C] float64 of the last rows on chosen keys of element 0, position by position.

    The state is read after each update, as in Gated DeltaNet (arXiv 2412.06464, eq. 10).
    """
    import torch

    query, key = (x[0].double().transpose(0, 1) for x in (call.query, call.key))
    if call.normalised:
        query, key = (x / (x.square().sum(-1, keepdim=True) + 1e-6).sqrt() for x in (query, key))
    decay, beta = (x[0].double() for x in (call.decay, call.beta))
    length, heads = beta.shape
    query, key = (x.repeat_interleave(heads // len(x), 0) for x in (query, key))
    values = (torch.arange(length, device=keys.device)[:, None] == keys).double()  # [N, C]
    state = torch.zeros(heads, query.shape[-1], len(keys), dtype=torch.float64, device=keys.device)
    read = []
    for t in range(length):
        state = state * decay[t].exp()[:, None, None]
        held = (key[:, t, None] @ state)[:, 0]
        state = state + key[:, t, :, None] * (beta[t][:, None] * (values[t] - held))[:, None]
        if t >= length - rows:
            read.append(call.scale * (query[:, t, None] @ state)[:, 0])
    return torch.stack(read, dim=1)


def compare(runner: LinearRunner, rounds: int) -> dict[str, Any]:
    """Run both ways in alternation; return the fields of `LinearMeasurement` but the size."""
    import torch

    size = runner.size
    _, plain, _ = runner.run(recorded=False)
    _, logits, rows = runner.run(recorded=True)
    keys = torch.linspace(0, size.length - 1, size.keys, device=size.device).long()
    with torch.inference_mode():
        expected = recurrence(runner.first_call(), keys, size.rows).cpu()
    times: dict[str, list[float]] = {"plain": [], "recorded": []}
    for number in range(rounds):
        for way in ("plain", "recorded") if number % 2 == 0 else ("recorded", "plain"):
            times[way].append(runner.run(recorded=way == "recorded")[0])
    ratios = [one / other for one, other in zip(times["recorded"], times["plain"], strict=True)]
    return {
        "recorded_over_plain_time": statistics.median(ratios),
        "logits_difference": float((logits - plain).abs().max()),
        "weights_difference": float((rows[0][..., keys.cpu()] - expected).abs().max()),
        "largest_weight": float(expected.abs().max()),
        "negative_weights": float((rows < 0).float().mean()),
        "pass_seconds": times,
    }


if __name__ == "__main__":
    order = json.loads(sys.argv[1])
    print(json.dumps(compare(LinearRunner(LinearBenchSize(**order["size"])), order["rounds"])))
