from __future__ import annotations

import json

import pytest

pytest.importorskip("diffusers", reason="the extra diffusion is not installed")

from evals.bench.joint import JOINT_WAYS, _serve, measure_joint
from evals.commands.bench import BenchJointCommand
from grounding.errors import GroundingError

SMALL = {"double_blocks": 1, "single_blocks": 1, "heads": 2, "head_width": 16, "side": 8, "text": 12, "tokens": 4}


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Orders are carried out here: a child process would import everything once more for each of six orders."""
    monkeypatch.setattr("evals.bench.joint.run_child", lambda module, order, what: _serve(order))


@pytest.mark.usefixtures("in_process")
def test_a_small_run_prints_every_number_as_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    assert BenchJointCommand(**SMALL, rounds=1, json=True).run() == 0
    out, err = capsys.readouterr()
    numbers = json.loads(out)
    assert numbers["kept_bytes"] == 2 * 64 * 4 * 4
    ways = [way for way in JOINT_WAYS if way in numbers["seconds"]]
    assert set(ways) >= {"plain", "recorded", "joint", "explicit"}
    assert all(len(numbers["seconds"][way]) == 1 for way in ways)
    assert numbers["recorded_over_plain_time"] > 0
    assert numbers["largest_difference"] < 1e-6
    extra = numbers["extra_bytes"]
    assert numbers["explicit_over_recorded_memory"] == extra["explicit"] / extra["recorded"]
    assert (numbers["peer"] is None) == (numbers["peer_over_recorded_time"] is None)
    assert err.splitlines()[-1] == "time, 1 rounds"


def test_no_rounds_are_refused() -> None:
    with pytest.raises(GroundingError, match="expected at least 1"):
        measure_joint(rounds=0)
