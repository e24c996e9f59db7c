from __future__ import annotations

import json

import pytest

from evals.bench.record import BenchSize, measure_record
from grounding.cli import main
from grounding.errors import GroundingError

SMALL = {"layers": 2, "hidden": 64, "heads": 4, "kv-heads": 2, "intermediate": 64, "length": 96, "rows": 4}


@pytest.mark.slow
def test_a_small_run_prints_every_number_as_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    options = [part for name, value in SMALL.items() for part in (f"--{name}", str(value))]
    assert main(["bench", "record", *options, "--rounds", "2", "--eager-rounds", "1", "--json"]) == 0
    out, err = capsys.readouterr()
    numbers = json.loads(out)
    assert numbers["kept_bytes"] == 2 * 4 * 4 * 96 * 4
    assert len(numbers["plain_seconds"]) == len(numbers["recorded_seconds"]) == 2
    assert len(numbers["eager_seconds"]) == 1
    peak, loaded = numbers["peak_bytes"], numbers["loaded_bytes"]
    for name in ("recorded", "eager"):
        assert numbers[f"{name}_over_plain_time"] > 0
        assert numbers[f"{name}_over_plain_memory"] == peak[name] / peak["plain"]
    assert all(peak[way] >= loaded[way] > 0 for way in ("plain", "recorded", "eager"))
    assert "torch" in numbers["versions"]
    assert err.splitlines() == ["time, 2 rounds", "memory of recorded", "memory of eager"]


def test_a_child_that_fails_says_why() -> None:
    with pytest.raises(GroundingError, match="measuring plain ended with status 1"):
        measure_record(
            BenchSize(layers=1, hidden=63, heads=4, kv_heads=2, intermediate=8, length=8, rows=1),
            rounds=1,
            eager_rounds=1,
        )
    with pytest.raises(GroundingError, match="must lie between 1 and rounds=1"):
        measure_record(BenchSize(), rounds=1, eager_rounds=2)
