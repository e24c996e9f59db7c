"""A distribution outside the project adds one stage, point rule, steering step, model family and task."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

CODE = '''
from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from grounding.maps.base import Stage
from grounding.points import PointRule
from grounding.record_spec import RecordSpec
from grounding.types import StageReport


@dataclass(frozen=True)
class Sharpen(Stage):
    """Raise every weight to a power; needs phi, and single heads."""

    name: ClassVar[str] = "sharpen"
    requires: ClassVar[frozenset] = frozenset({"heads", "background"})
    before: ClassVar[frozenset] = frozenset({"smooth"})
    power: float = 2.0

    def needs(self, layer_count):
        return RecordSpec(residual_sinks=True)

    def apply(self, maps):
        return replace(maps, values=maps.values**self.power), StageReport(self.name, 0.0, f"power {self.power:g}")


@dataclass(frozen=True)
class Nameless(Stage):
    """Has no name."""

    def apply(self, maps):
        return maps, StageReport("nameless", 0.0, "")


@dataclass(frozen=True)
class Idle(Stage):
    """Has no apply."""

    name: ClassVar[str] = "gone"


@dataclass(frozen=True)
class Corner(PointRule):
    """One point in the top left cell."""

    name: ClassVar[str] = "corner"

    def cells(self, values):
        return np.array([[0, 0]]), np.zeros((0, 2), np.int64)


@dataclass(frozen=True)
class Quiet:
    """Changes nothing."""

    name: ClassVar[str] = "quiet"
    amount: float = 0.5

    @contextmanager
    def applied(self, context):
        from grounding.steering.base import GenerateOverrides

        yield GenerateOverrides()


class Plain:
    """A step that is not a dataclass."""

    name = "plain"

    def applied(self, context):
        return self


@dataclass(frozen=True)
class Count:
    """A task of no samples."""

    name: ClassVar[str] = "count-things"
    version: ClassVar[int] = 1
    prompt: ClassVar[str] = ""
    max_new_tokens: ClassVar[int] = 8

    def samples(self):
        return ()

    def score(self, answers, folder, seed):
        return len(answers)
'''
FAMILY = '''
from grounding.models.llava import Llava


class Mine(Llava):
    """LLaVA under another name."""

    model_types = ("mine_vl",)
'''
ENTRIES = {
    "grounding.stages": "sharpen = outside_grounding.parts:Sharpen",
    "grounding.point_rules": "corner = outside_grounding.parts:Corner",
    "grounding.steering_steps": "quiet = outside_grounding.parts:Quiet",
    "grounding.families": "mine_vl = outside_grounding.family:Mine",
    "grounding.tasks": "count-things = outside_grounding.parts:Count",
}
METHOD = """\
description: An outside stage and an outside point rule.
source: A test.
stages:
  - {stage: rows, last: 1.0, normalise: false}
  - {stage: sharpen, power: 3.0}
  - {stage: heads-mean}
  - {stage: layers-mean}
points: {rule: corner}
"""


def install(folder: Path, entries: dict[str, str], distribution: str = "outside-grounding") -> None:
    """What a package installer leaves in a folder: the package, and its metadata with the entry points."""
    package = folder / "outside_grounding"
    package.mkdir(parents=True, exist_ok=True)
    (package / "__init__.py").write_text("")
    (package / "parts.py").write_text(CODE)
    (package / "family.py").write_text(FAMILY)
    information = folder / f"{distribution.replace('-', '_')}-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    lines = [line for group, entry in entries.items() for line in (f"[{group}]", entry, "")]
    (information / "entry_points.txt").write_text("\n".join(lines))


def run(folder: Path, code: str) -> str:
    """Run code in a fresh process that has the folder on its path, and return what it printed."""
    path = os.pathsep.join([str(folder), str(ROOT), str(ROOT / "tests"), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": path},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("outside")
    install(folder, ENTRIES)
    (folder / "mine.yaml").write_text(METHOD)
    return folder


def test_a_method_file_uses_an_outside_stage_and_point_rule(outside: Path) -> None:
    code = """
import json, sys
import numpy as np
from made_maps import cells, made_maps
from grounding.maps.heads import HeadMean
from grounding.methods import load_method, parse_method, run_stages
method = load_method("mine.yaml")
maps = made_maps()
heatmap = run_stages(method, maps)
points = method.points(heatmap)
expected = (cells(maps)[0, :, :, -1] ** 3).mean((0, 1))
expected = (expected - expected.min()) / (expected.max() - expected.min())
print(json.dumps({
    "same": bool(np.allclose(heatmap.values, expected, atol=1e-5)),
    "stages": [report.stage for report in heatmap.stages],
    "xy": points.xy.tolist(),
    "sinks": method.record_spec(4).residual_sinks,
    "reduce": method.record_spec(4).reduce,
    "again": parse_method(method.to_yaml(), "mine", "again.yaml") == method,
    "torch": "torch" in sys.modules,
}))
"""
    assert json.loads(run(outside, code)) == {
        "same": True,
        "stages": ["rows", "sharpen", "heads-mean", "layers-mean"],
        "xy": [[10.0, 10.0]],
        "sinks": True,
        "reduce": "none",  # the outside stage reads single heads
        "again": True,
        "torch": False,
    }


def test_the_order_that_an_outside_stage_declares_is_checked(outside: Path) -> None:
    code = """
from grounding.errors import MethodError
from grounding.methods import parse_method
head = "description: d\\nsource: s\\nstages: "
for stages in ("[{stage: heads-mean}, {stage: sharpen}]", "[{stage: smooth}, {stage: sharpen}]"):
    try:
        parse_method(head + stages, "m", "m.yaml")
    except MethodError as wrong:
        print(wrong)
"""
    assert run(outside, code).splitlines() == [
        "method 'm': stage 'sharpen' must come before 'heads-mean': single heads are gone by then",
        "method 'm': stage 'sharpen' must come before 'smooth': stage 'sharpen' declares that order",
    ]


def test_an_outside_steering_step_family_and_task_are_found(outside: Path) -> None:
    code = """
from evals.tasks.registry import TASKS, task_class
from grounding.models.registry import FAMILIES, family_class
from grounding.steering.method import STEPS, parse_steering
steering = parse_steering("description: d\\nsource: s\\nsteps: [{step: quiet, amount: 0.25}]", "s", "s.yaml")
print(steering.steps[0])
print(family_class("mine_vl").__mro__[1].__name__, task_class("count-things")().samples())
print("quiet" in STEPS, "mine_vl" in FAMILIES, "count-things" in TASKS, list(TASKS)[-1])
"""
    assert run(outside, code).splitlines() == [
        "Quiet(amount=0.25)",
        "Llava ()",
        "True True True count-things",
    ]


def test_the_doctor_skips_an_outside_family_without_a_tiny_model(outside: Path) -> None:
    code = """
from grounding.doctor import check_family
from grounding.models.registry import FAMILIES
assert "mine_vl" in FAMILIES
print(*check_family("mine_vl"))
"""
    assert run(outside, code) == (
        "Check(name='mine_vl: all checks', passed=None, "
        "detail='skipped: there is no tiny model of this family to check')"
    )


def test_a_broken_outside_task_refuses_itself_alone(tmp_path: Path) -> None:
    install(tmp_path, {"grounding.tasks": "gone = outside_grounding.gone:Task"})
    code = """
import tyro
from evals.commands.run import EvalRunCommand
from evals.tasks.pope import PopeTask
from grounding.errors import EvalDataError
print(type(tyro.cli(EvalRunCommand, args=["task:pope"]).task) is PopeTask)
try:
    tyro.cli(EvalRunCommand, args=["task:gone"]).run()
except EvalDataError as wrong:
    print(wrong)
"""
    usable, sentence = run(tmp_path, code).splitlines()
    assert usable == "True"
    assert sentence.startswith("task 'gone' of distribution 'outside-grounding' cannot be imported")


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("gone = outside_grounding.gone:Stage", "cannot be imported from outside_grounding.gone:Stage (ModuleNotFound"),
        ("gone = outside_grounding.parts:Gone", "cannot be imported from outside_grounding.parts:Gone (AttributeErr"),
        ("gone = outside_grounding.parts:Corner", "does not derive from grounding.maps.base.Stage"),
        ("gone = outside_grounding.parts:np", "is module, expected a class"),
        ("gone = outside_grounding.parts:Sharpen", "calls itself 'sharpen'"),
        ("gone = outside_grounding.parts:Nameless", "has no name"),
        ("gone = outside_grounding.parts:Idle", "does not define apply"),
    ],
)
def test_an_outside_class_that_cannot_be_used_is_one_sentence(tmp_path: Path, entry: str, said: str) -> None:
    install(tmp_path, {"grounding.stages": entry})
    code = """
from grounding.errors import MethodError
from grounding.methods import STAGES
print(list(STAGES)[-1], STAGES.get("smooth").__name__)
try:
    STAGES.get("gone")
except MethodError as wrong:
    print(wrong)
"""
    first, sentence = run(tmp_path, code).splitlines()
    assert first == "gone Smooth"
    assert sentence.startswith("stage 'gone' of distribution 'outside-grounding'")
    assert said in sentence


def test_an_outside_class_that_is_not_a_dataclass_is_one_sentence(tmp_path: Path) -> None:
    install(tmp_path, {"grounding.steering_steps": "plain = outside_grounding.parts:Plain"})
    code = """
from grounding.errors import MethodError
from grounding.steering.method import parse_steering
try:
    parse_steering("description: d\\nsource: s\\nsteps: [{step: plain}]", "s", "s.yaml")
except MethodError as wrong:
    print(wrong)
"""
    assert run(tmp_path, code) == "s.yaml: step 'plain' cannot be built: outside_grounding.parts.Plain is no dataclass"


def test_a_name_that_is_defined_twice_is_refused(tmp_path: Path) -> None:
    install(tmp_path, {"grounding.stages": "sharpen = outside_grounding.parts:Sharpen"})
    install(tmp_path, {"grounding.stages": "smooth = outside_grounding.parts:Sharpen"}, "other-grounding")
    install(tmp_path, {"grounding.stages": "sharpen = outside_grounding.parts:Other"}, "third-grounding")
    code = """
from grounding.errors import MethodError
from grounding.methods import STAGES
for name in ("smooth", "sharpen", "rows"):
    try:
        print(STAGES.get(name).__name__)
    except MethodError as wrong:
        print(wrong)
"""
    smooth, sharpen, rows = run(tmp_path, code).splitlines()
    assert smooth.startswith("stage 'smooth' is defined more than once, by distribution 'other-grounding'")
    assert "this project (grounding.maps.smooth:Smooth)" in smooth
    assert "'outside-grounding'" in sharpen
    assert "'third-grounding'" in sharpen
    assert rows == "Rows"
