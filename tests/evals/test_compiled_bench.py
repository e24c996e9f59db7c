from __future__ import annotations

import json

import pytest

from grounding.cli import main

SMALL = {"layers": 1, "hidden": 32, "heads": 2, "kv-heads": 1, "intermediate": 32, "length": 24, "steps": 2}


@pytest.mark.usefixtures("measured_here")
def test_a_small_run_compares_compiled_with_uncompiled_steps(capsys: pytest.CaptureFixture[str]) -> None:
    options = [part for name, value in SMALL.items() for part in (f"--{name}", str(value))]
    assert main(["bench", "compiled", *options, "--backend", "eager", "--rounds", "1", "--json"]) == 0
    numbers = json.loads(capsys.readouterr().out)
    assert numbers["logits_difference"] == numbers["logits_difference_of_compiling"] <= 1e-5
    assert numbers["rows_difference"] <= 1e-6
    steps = numbers["step_seconds"]
    assert numbers["recorded_over_plain_time"] == pytest.approx(steps["recorded"][0] / steps["plain"][0])
    assert numbers["compiled_over_uncompiled_time"] == pytest.approx(steps["plain"][0] / steps["uncompiled"][0])


def test_bad_sizes_are_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "compiled", "--steps", "0"]) == 2
    assert "--steps 0 was given, expected at least 1" in capsys.readouterr().err
