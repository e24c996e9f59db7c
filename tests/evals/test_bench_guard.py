from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest

from evals.bench.guard import ExpectedRatios, load_expected
from evals.bench.record import BenchSize, RecordBench
from evals.bench.steer import SteerBench, SteerBenchSize
from evals.commands.bench import exit_code
from grounding.cli import main
from grounding.errors import MethodError, UsageError
from grounding.presets import shipped_names

EXPECTED = ExpectedRatios(margin=0.1, at_most={"time": 1.0}, at_least={"speed": 0.5}, size={"layers": 2})


@pytest.mark.parametrize(
    ("time", "speed", "worse"),
    [(1.0, 0.5, []), (1.09, 0.46, []), (1.11, 0.5, ["time"]), (0.1, 0.44, ["speed"]), (2, 0, ["time", "speed"])],
)
def test_only_what_is_worse_by_more_than_the_margin_is_named(time, speed, worse):
    said = EXPECTED.regression({"time": time, "speed": speed, "other": 9})
    assert [name for name in ("time", "speed") if said is not None and f"{name} is" in said] == worse
    assert (said is None) == (not worse)


def test_a_ratio_that_is_not_a_number_is_worse():
    assert "time is nan" in str(EXPECTED.regression({"time": float("nan"), "speed": 1}))


def test_the_exit_code_and_the_sentence(capsys):
    assert exit_code(EXPECTED, {"time": 1, "speed": 1}) == exit_code(None, {}) == 0
    assert exit_code(EXPECTED, {"time": 1.2, "speed": 1}) == 1
    said = capsys.readouterr().err
    assert "time is 1.200, expected at most 1.100 (committed 1)" in " ".join(said.split())


def test_ratios_of_another_size_or_benchmark_are_refused():
    EXPECTED.check_size({"layers": 2, "hidden": 8})
    with pytest.raises(UsageError, match="layers is 3, not 2"):
        EXPECTED.check_size({"layers": 3})
    with pytest.raises(UsageError, match="speed was not measured"):
        EXPECTED.regression({"time": 1})


@pytest.mark.parametrize(("name", "bench", "size"), [("record", RecordBench, BenchSize()), ("steer", SteerBench, None)])
def test_shipped_files_name_what_is_measured(name, bench, size):
    for file in (file for file in shipped_names("bench") if file.startswith(name)):
        expected = load_expected(file)
        assert {*expected.at_most, *expected.at_least} <= set(bench.__dataclass_fields__)
        expected.check_size(asdict(size or SteerBenchSize(steer=str(expected.size["steer"]))))


def test_wrong_files_and_sizes_are_refused_before_anything_runs(tmp_path: Path, capsys):
    file = tmp_path / "mine.yaml"
    for text, sentence in [
        ("margin: 0.1", "neither at_most nor at_least"),
        ("margin: -1\nat_most: {a: 1}", "margin is -1"),
        ("margin: 0.1\nat_most: {a: quick}", "at_most"),
        ("margin: [", "is not YAML"),
    ]:
        file.write_text(text)
        with pytest.raises(MethodError, match=sentence):
            load_expected(file)
    assert main(["bench", "record", "--layers", "1", "--check", "record"]) == 2
    assert "layers is 1, not 12" in " ".join(capsys.readouterr().err.split())
