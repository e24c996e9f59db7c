from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from evals.bench.record import BenchSize, measure_record
from grounding.errors import GroundingError

SMALL = BenchSize(layers=2, hidden=64, heads=4, kv_heads=2, intermediate=64, length=96, rows=4)


def test_a_small_run_has_every_number() -> None:
    said: list[str] = []
    bench = measure_record(SMALL, rounds=2, eager_rounds=1, progress=said.append)
    assert bench.kept_bytes == 2 * 4 * 4 * 96 * 4
    assert len(bench.plain_seconds) == len(bench.recorded_seconds) == 2
    assert len(bench.eager_seconds) == 1
    numbers = json.loads(json.dumps(asdict(bench)))
    for name in ("recorded", "eager"):
        assert numbers[f"{name}_over_plain_time"] > 0
        assert numbers[f"{name}_over_plain_memory"] == bench.peak_bytes[name] / bench.peak_bytes["plain"]
    assert all(bench.peak_bytes[way] >= bench.loaded_bytes[way] > 0 for way in ("plain", "recorded", "eager"))
    assert len(said) == 4


def test_a_child_that_fails_says_why() -> None:
    with pytest.raises(GroundingError, match="measuring memory of plain ended with status 1"):
        measure_record(
            BenchSize(layers=1, hidden=63, heads=4, kv_heads=2, intermediate=8, length=8, rows=1),
            rounds=1,
            eager_rounds=1,
        )
    with pytest.raises(GroundingError, match="must lie between 1 and rounds=1"):
        measure_record(SMALL, rounds=1, eager_rounds=2)
