"""`grounding bench linear`: rows of linear attention beside a plain pass and a plain recurrence."""

from __future__ import annotations

import json

import pytest

from evals.commands.bench import BenchLinearCommand
from grounding.errors import UsageError

SMALL = {"layers": 4, "hidden": 64, "heads": 4, "head_width": 16, "length": 100, "rows": 3, "keys": 9}


@pytest.mark.slow
def test_a_small_run_compares_rows_with_the_recurrence(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("transformers.models.qwen3_5")
    assert BenchLinearCommand(**SMALL, rounds=1, json=True).run() == 0
    found = json.loads(capsys.readouterr().out)
    assert found["logits_difference"] == 0
    assert found["weights_difference"] < 1e-6
    assert found["largest_weight"] > 1e-3
    assert 0 < found["negative_weights"] < 1
    seconds = found["pass_seconds"]
    assert found["recorded_over_plain_time"] == pytest.approx(seconds["recorded"][0] / seconds["plain"][0])


@pytest.mark.parametrize("wrong", [{"layers": 3}, {"heads": 3}, {"rows": 101}, {"keys": 101}, {"length": 0}], ids=str)
def test_sizes_of_which_there_is_no_model_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(UsageError):
        BenchLinearCommand(**SMALL | wrong)
