from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from evals.bench.flow import FlowBench, FlowBenchLength, FlowBenchSize, _serve, measure_flow
from evals.bench.guard import load_expected
from evals.commands.bench import BenchFlowCommand
from grounding.errors import UsageError

SMALL = {"lengths": (40, 90), "layers": 3, "heads": 4, "kv_heads": 2, "head_width": 8}


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Orders are carried out here: a child process would import everything once more for each of six orders."""
    monkeypatch.setattr("evals.bench.flow.run_child", lambda module, order, what: _serve(order))


@pytest.mark.usefixtures("in_process")
def test_a_small_run_prints_every_number_by_length(capsys: pytest.CaptureFixture[str]) -> None:
    assert BenchFlowCommand(**SMALL, rounds=2, json=True).run() == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert list(found["lengths"]) == ["40", "90"]
    for length, one in found["lengths"].items():
        assert one["max_abs_difference"] < 1e-5
        assert one["cache_bytes"] == 3 * (4 + 2) * int(length) * 8 * 4
        assert len(one["seconds"]["flow"]) == len(one["seconds"]["rollout"]) == 2
        assert one["rollout_over_flow_time"] > 0
        extra = one["extra_bytes"]
        assert one["rollout_over_flow_memory"] == extra["rollout"] / extra["flow"]
        assert min(extra.values()) >= int(length) * 4
    assert err.splitlines()[-1] == "time, 90 positions, 2 rounds"


def test_a_difference_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The two ways share no code: another rule of one of them shows."""
    from grounding.attention_flow import AttentionFlow

    other = AttentionFlow(regulariser="end")
    monkeypatch.setattr("grounding.attention_flow.AttentionFlow", lambda: other)
    order = {"rounds": 1, "size": asdict(FlowBenchSize(**{**SMALL, "lengths": (40,)}))}
    assert _serve(order)["difference"] > 1e-4


def test_committed_ratios_are_those_of_the_default_size() -> None:
    expected = load_expected("flow")
    expected.check_size(asdict(FlowBenchSize()))
    one = FlowBenchLength(5.0, 20.0, 1e-5, {}, {}, 0)
    ratios = FlowBench({str(n): one for n in FlowBenchSize().lengths}, FlowBenchSize()).ratios()
    assert expected.regression(ratios) is None
    assert expected.regression({**ratios, "max_abs_difference_4096": 1e-3}) is not None


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"lengths": (64, 64)}, "--lengths 64 64 was given, expected different numbers from 1"),
        ({"heads": 4, "kv_heads": 3}, "--heads 4 cannot share --kv-heads 3"),
        ({"layers": 0}, "--layers 0 was given, expected at least 1"),
    ],
)
def test_impossible_sizes_are_refused(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        measure_flow(FlowBenchSize(**{**SMALL, **wrong}))
    with pytest.raises(UsageError, match="--rounds 0"):
        measure_flow(FlowBenchSize(**SMALL), rounds=0)
