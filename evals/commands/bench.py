"""`grounding bench`: cost of recording, of attention flow and of steering, quality and speed of a segmenter."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evals.bench.compiled import CompiledBenchSize, measure_compiled
from evals.bench.flow import FlowBenchSize, measure_flow
from evals.bench.joint import JointBenchSize
from evals.bench.linear import LinearBenchSize, measure_linear
from evals.bench.record import BenchSize, measure_record
from evals.bench.sizes import refuse_below_one
from evals.bench.steer import SteerBenchSize, measure_steer
from grounding.console import emit, stderr, stdout
from grounding.errors import GroundingError, MissingExtraError

if TYPE_CHECKING:
    from evals.bench.guard import ExpectedRatios


@dataclass(frozen=True, kw_only=True)
class BenchRecordCommand(BenchSize):
    """Time and peak memory of a random Qwen2.5-VL: plain sdpa, with recorded rows, and eager with output_attentions.

    Decode steps are timed too: plain, and with one row a step kept whole, in some columns, and reduced.

    The defaults take about ten minutes and 10 GiB on two idle cores, nearly all of both for eager attention.

    Attributes:
        rounds: alternating rounds of plain and recorded runs.
        eager_rounds: number of rounds in which eager attention runs as well.
        check: compare the ratios with committed ones, `record` or the path of a YAML file; exit with 1 where one is
            worse by more than the file's margin.
        json: print one JSON object on stdout instead of the list.
    """

    rounds: int = 5
    eager_rounds: int = 2
    check: str | None = None
    json: bool = False

    def run(self) -> int:
        """Measure, print, and compare where asked."""
        size = BenchSize(**{one.name: getattr(self, one.name) for one in fields(BenchSize)})
        expected = expected_ratios(self.check, asdict(size))
        found = asdict(
            measure_record(size, rounds=self.rounds, eager_rounds=self.eager_rounds, progress=stderr().print)
        )
        print_measurement(found, self.json)
        return exit_code(expected, found)


@dataclass(frozen=True, kw_only=True)
class BenchJointCommand(JointBenchSize):
    """Time and peak memory of maps of a random FLUX transformer: plain, recorded, written out, and another package.

    The other package, attention-map-diffusers, runs where it is installed. The defaults take about fifteen minutes and
    9 GiB on two idle cores.

    Attributes:
        rounds: alternating rounds of all ways.
        check: compare the ratios with committed ones, `joint` or the path of a YAML file; exit with 1 where one is
            worse by more than the file's margin.
        json: print one JSON object on stdout instead of the list.
    """

    rounds: int = 3
    check: str | None = None
    json: bool = False

    def run(self) -> int:
        """Measure, print, and compare where asked."""
        from evals.bench.joint import measure_joint

        if find_spec("diffusers") is None:
            raise MissingExtraError("diffusers", "diffusion", "grounding bench joint")
        size = JointBenchSize(**{one.name: getattr(self, one.name) for one in fields(JointBenchSize)})
        expected = expected_ratios(self.check, asdict(size))
        found = asdict(measure_joint(size, rounds=self.rounds, progress=stderr().print))
        print_measurement(found, self.json)
        return exit_code(expected, found)


@dataclass(frozen=True, kw_only=True)
class BenchFlowCommand(FlowBenchSize):
    """Time, peak memory and difference of attention flow by rows, and by products of N x N matrices.

    The defaults take about ten minutes and 4 GiB on two idle cores, nearly all of both for the matrices.

    Attributes:
        rounds: alternating rounds of both ways.
        check: compare the ratios with committed ones, `flow` or the path of a YAML file; exit with 1 where one is worse
            by more than the file's margin.
        json: print one JSON object on stdout instead of the list.
    """

    rounds: int = 3
    check: str | None = None
    json: bool = False

    def run(self) -> int:
        """Measure, print, and compare where asked."""
        size = FlowBenchSize(**{one.name: getattr(self, one.name) for one in fields(FlowBenchSize)})
        expected = expected_ratios(self.check, asdict(size))
        found = measure_flow(size, rounds=self.rounds, progress=stderr().print)
        print_measurement(asdict(found), self.json)
        return exit_code(expected, found.ratios())


@dataclass(frozen=True, kw_only=True)
class BenchCompiledCommand(CompiledBenchSize):
    """Decode steps of a compiled random Qwen2.5-VL, plain and with one row a step recorded, beside the uncompiled one.

    Needs a C++ compiler where the backend is inductor. The defaults take about three minutes on two idle cores.

    Attributes:
        rounds: alternating rounds of all ways.
        json: print one JSON object on stdout instead of the list.
    """

    rounds: int = 5
    json: bool = False

    def run(self) -> int:
        """Measure and print."""
        size = CompiledBenchSize(**{one.name: getattr(self, one.name) for one in fields(CompiledBenchSize)})
        refuse_below_one(rounds=self.rounds)
        print_measurement(asdict(measure_compiled(size, self.rounds)), self.json)
        return 0


@dataclass(frozen=True, kw_only=True)
class BenchLinearCommand(LinearBenchSize):
    """Time of recording rows of linear attention in a random Qwen3.5, and their difference from a plain recurrence.

    The defaults take about two minutes on two idle cores.

    Attributes:
        rounds: alternating rounds of a plain and a recorded pass.
        json: print one JSON object on stdout instead of the list.
    """

    rounds: int = 5
    json: bool = False

    def run(self) -> int:
        """Measure and print."""
        size = LinearBenchSize(**{one.name: getattr(self, one.name) for one in fields(LinearBenchSize)})
        refuse_below_one(rounds=self.rounds)
        print_measurement(asdict(measure_linear(size, self.rounds)), self.json)
        return 0


@dataclass(frozen=True, kw_only=True)
class BenchSegmenterCommand:
    """Mean IoU of a segmenter's masks from one point inside each annotated object of photos, and its times.

    Exit codes: 0 success; 1 some pictures were left out, each with its reason on stderr; 2 refused.

    Attributes:
        data: folder with instances.json (COCO format) and images/; `grounding scenes` makes one.
        segmenter: see `grounding segment --help`.
        device: `auto`, `cpu`, `cuda`, `cuda:1` or `mps`.
        limit: how many objects.
        seed: of the draw of objects.
        min_area: smallest annotated area in pixels.
        cascade: ask three times, each time with the last answer as a hint.
        json: print one JSON object on stdout instead of the list.
    """

    data: Path
    segmenter: str = "mobile-sam"
    device: str = "auto"
    limit: int = 40
    seed: int = 0
    min_area: int = 1024
    cascade: bool = False
    json: bool = False

    def run(self) -> int:
        """Measure and print."""
        from evals.bench.segmenter import measure_segmenter

        failed = 0

        def left_out(file: Path, error: GroundingError) -> None:
            nonlocal failed
            failed += 1
            stderr().print(f"{file} is left out: {error}")

        found = measure_segmenter(
            self.data,
            self.limit,
            self.seed,
            self.segmenter,
            device=self.device,
            min_area=self.min_area,
            cascade=self.cascade,
            left_out=left_out,
        )
        print_measurement(asdict(found), self.json)
        return 1 if failed else 0


@dataclass(frozen=True, kw_only=True)
class BenchSteerCommand(SteerBenchSize):
    """Speed and peak memory of generate on a random Qwen2.5-VL: plain, steered, PAI as published (eager), and VCD.

    Attributes:
        rounds: alternating rounds of all ways.
        check: compare the ratios with committed ones, `steer`, `steer-headwise` or the path of a YAML file; exit with 1
            where one is worse by more than the file's margin.
        json: print one JSON object on stdout instead of the list.
    """

    rounds: int = 3
    check: str | None = None
    json: bool = False

    def run(self) -> int:
        """Measure, print, and compare where asked."""
        size = SteerBenchSize(**{one.name: getattr(self, one.name) for one in fields(SteerBenchSize)})
        expected = expected_ratios(self.check, asdict(size))
        found = asdict(measure_steer(size, rounds=self.rounds, progress=stderr().print))
        print_measurement(found, self.json)
        return exit_code(expected, found)


def expected_ratios(name: str | None, size: dict[str, Any]) -> ExpectedRatios | None:
    """Load the committed ratios that `--check` names, and refuse those of another size."""
    if name is None:
        return None
    from evals.bench.guard import load_expected

    expected = load_expected(name)
    expected.check_size(size)
    return expected


def exit_code(expected: ExpectedRatios | None, found: dict[str, Any]) -> int:
    """Return 1, with a sentence on stderr, where a ratio is worse than its committed one; else 0."""
    regression = expected.regression(found) if expected is not None else None
    if regression is None:
        return 0
    stderr().print(f"the benchmark has become worse: {regression}")
    return 1


def print_measurement(found: dict[str, Any], as_json: bool) -> None:
    """Print a measurement as one JSON object with its versions, or one number a line; numbers not finite are null."""
    from grounding.runs.provenance import versions

    values = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in found.items()}
    if as_json:
        emit({**values, "versions": versions()})
        return
    lines = [line for name, value in values.items() for line in _lines(name, value)]
    width = max(len(name) for name, _ in lines)
    for name, text in lines:
        stdout().print(f"{name:<{width}}  {text}")


def _lines(name: str, value: Any) -> list[tuple[str, str]]:
    """Spell a value in four digits: one line per entry of a table, named `table.entry`, and a list on one line."""
    if isinstance(value, dict):
        return [line for key, entry in value.items() for line in _lines(f"{name}.{key}", entry)]
    if isinstance(value, list | tuple):
        return [(name, " ".join(_lines("", entry)[0][1] for entry in value))]
    return [(name, f"{value:.4g}" if isinstance(value, float) else str(value))]
