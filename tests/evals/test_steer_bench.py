from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from evals.bench.steer import WAYS, SteerBenchSize, Way, _published_pai, _steering, _SteerRunner, measure_steer
from grounding.errors import GroundingError
from grounding.steering.head_gains import HeadGains

SMALL = SteerBenchSize(layers=3, hidden=64, heads=4, kv_heads=2, image_tokens=12, new_tokens=4, steer="pai-guidance")


@pytest.fixture(scope="module")
def runner() -> _SteerRunner:
    return _SteerRunner(SMALL)


@pytest.mark.usefixtures("measured_here")
def test_a_small_run_has_every_number() -> None:
    bench = measure_steer(SMALL, rounds=2, ways=["plain"])
    numbers = json.loads(json.dumps(asdict(bench)))
    assert numbers["steered_over_plain_speed"] == numbers["speed_over_plain"]["steered"] > 0
    assert numbers["decode_speed_over_plain"]["plain"] == numbers["memory_over_plain"]["plain"] == 1
    for way in ("plain", "steered"):
        assert bench.peak_bytes[way] > 0
        for values in (bench.tokens_per_second, bench.decode_tokens_per_second, bench.prefill_seconds):
            assert len(values[way]) == 2
            assert min(values[way]) > 0


@pytest.mark.parametrize("way", WAYS)
def test_every_way_makes_the_wanted_tokens(runner: _SteerRunner, way: Way) -> None:
    assert min(runner.run(way)) > 0


def test_head_gains_are_drawn_for_the_models_size() -> None:
    (step,) = _steering(replace(SMALL, steer="head-gains")).steps
    assert isinstance(step, HeadGains)
    assert np.shape(step.image) == np.shape(step.text) == (3, 4)
    assert min(_SteerRunner(replace(SMALL, steer="head-gains")).run("steered")) > 0


def test_published_pai_is_eager_and_boosts_the_newest_row_of_later_layers(runner: _SteerRunner) -> None:
    model = runner.vlm.model
    inputs = runner.vlm.prepare_questions([runner.image], ["where"]).inputs
    with torch.no_grad():
        plain = model(**inputs)
        step = {"input_ids": torch.tensor([[9]])}
        plain_next = model(**step, cache=plain.cache).logits
        with _published_pai(runner.vlm, runner.image_keys):
            boosted = model(**inputs)
            boosted_next = model(**step, cache=boosted.cache).logits
        again = model(**inputs)
    torch.testing.assert_close(boosted.logits, plain.logits, atol=1e-4, rtol=1e-4)  # the prompt is not boosted
    assert (boosted_next - plain_next).abs().max() > 1e-2
    assert torch.equal(again.logits, plain.logits)


def test_what_cannot_be_measured_is_refused_at_once() -> None:
    with pytest.raises(GroundingError, match="new_tokens=1"):
        measure_steer(SteerBenchSize(new_tokens=1))
    with pytest.raises(GroundingError, match="'nothing' is unknown"):
        measure_steer(SteerBenchSize(steer="nothing"))
