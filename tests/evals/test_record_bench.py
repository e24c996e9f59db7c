from __future__ import annotations

import json
from math import nan

import pytest

from evals.bench.child import run_child
from evals.bench.record import BenchSize, measure_record
from evals.commands.bench import print_measurement
from grounding.cli import main
from grounding.errors import GroundingError

SMALL = {
    "layers": 2,
    "hidden": 64,
    "heads": 4,
    "kv-heads": 2,
    "intermediate": 64,
    "length": 96,
    "rows": 4,
    "decode-length": 32,
    "decode-columns": 8,
    "decode-steps": 3,
}


@pytest.mark.usefixtures("measured_here")
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
    steps = numbers["decode_step_seconds"]
    for way in ("all_columns", "some_columns", "reduced"):
        ratios = [recorded / plain for recorded, plain in steps[way]]
        assert numbers[f"decode_{way}_over_plain_time"] == pytest.approx(sum(ratios) / 2)
    assert "torch" in numbers["versions"]
    assert err.splitlines() == ["time, 2 rounds", "memory of recorded", "memory of eager", "decode steps, 2 rounds"]


def test_a_child_that_fails_says_why() -> None:
    with pytest.raises(GroundingError, match="measuring nothing ended with status 1: KeyError"):
        run_child("evals.bench.decode", {}, "nothing")
    with pytest.raises(GroundingError, match="must lie between 1 and rounds=1"):
        measure_record(BenchSize(), rounds=1, eager_rounds=2)


@pytest.mark.parametrize(
    ("command", "options", "sentence"),
    [
        ("record", "--heads 3", "--heads 3 cannot share --kv-heads 2"),
        ("record", "--hidden 1020", "--hidden 1020 does not divide among --heads 8"),
        ("record", "--layers 0", "--layers 0 was given, expected at least 1"),
        ("record", "--rows 0", "--rows 0 was given"),
        ("record", "--rows 5000", "5000 rows of 4096 positions"),
        ("record", "--decode-columns 2000", "2000 columns of 1024"),
        ("record", "--decode-steps 0", "--decode-steps 0 was given"),
        ("steer", "--heads 3", "--heads 3 cannot share --kv-heads 2"),
        ("steer", "--layers 0", "--layers 0 was given"),
        ("steer", "--rounds 0", "--rounds 0 was given"),
        ("steer", "--image-tokens 3", "image_tokens=3"),
    ],
)
def test_impossible_sizes_are_refused_before_a_child_starts(
    command: str, options: str, sentence: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("subprocess.run", lambda *_, **__: pytest.fail("a child was started"))
    assert main(["bench", command, *options.split()]) == 2
    assert sentence in " ".join(capsys.readouterr().err.split())


def test_lists_and_tables_are_printed_in_four_digits(capsys: pytest.CaptureFixture[str]) -> None:
    print_measurement(
        {"ratio": 1.23456789, "seconds": [0.123456, 2.0], "peak": {"plain": 12, "eager": [0.98765432]}, "none": nan},
        as_json=False,
    )
    assert capsys.readouterr().out.split() == [
        *("ratio", "1.235", "seconds", "0.1235", "2", "peak.plain", "12", "peak.eager", "0.9877", "none", "None")
    ]
