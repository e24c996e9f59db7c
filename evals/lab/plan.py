"""Plan of a lab, one YAML file: the methods, the grid that each is tuned over, and the scenes."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

from grounding import schema
from grounding.errors import EvalDataError, MethodError
from grounding.steering.fit_settings import FitSettings
from grounding.steering.method import Steering, load_steering

Number = bool | int | float


@dataclass(frozen=True)
class LabCandidate:
    """One steering method and its grid.

    Attributes:
        name: in the tables.
        grid: from "step.field" to the values to try; every combination is one setting.
        steering: a shipped steering method or a file's path; fields outside the grid keep its values.
        fit: instead of `steering`: fit gains on the calibration scenes.
    """

    name: str
    grid: Mapping[str, tuple[Number, ...]]
    steering: str = ""
    fit: FitSettings | None = None

    def __post_init__(self) -> None:
        if bool(self.steering) == (self.fit is not None):
            raise EvalDataError(f"{self.name}: give a steering method or a fit, one of both")

    def settings(self, fitted: Steering | None = None) -> tuple[Steering, ...]:
        """Build every combination of the grid's values, named by them.

        Args:
            fitted: the fitted steering, if `fit` is given.

        Raises:
            MethodError: the method is unknown, or the grid names a step or field that it does not have.
        """
        base = fitted or load_steering(self.steering)
        found = []
        for values in itertools.product(*self.grid.values()):
            steering = base
            for key, value in zip(self.grid, values, strict=True):
                steering = with_value(steering, key, value)
            label = ", ".join(f"{key} {value:g}" for key, value in zip(self.grid, values, strict=True))
            found.append(replace(steering, name=f"{self.name} ({label})" if label else self.name))
        return tuple(found)


@dataclass(frozen=True)
class LabPlan:
    """The whole comparison.

    Attributes:
        model: folder or name of the model.
        validation_scenes: number of scenes for tuning.
        validation_seed: of these scenes.
        test_scenes: number of scenes for the report.
        test_seed: of these scenes; different from the other seeds.
        budget: most settings per method, so that all are tuned equally hard.
        recall_loss: largest allowed loss of recall on the validation scenes, in percentage points.
        length_change: largest allowed change of length there, in percent.
        cuts: lengths in words at which the unsteered captions are cut, for the truncation control.
        contenders: the methods.
        calibration_scenes: number of scenes with true descriptions for fitting gains.
        calibration_seed: of these scenes; different from the other seeds.
        seed: of decoding and bootstrap.
        made_by: the command that makes the model, where it is none that one can get.
    """

    model: str
    validation_scenes: int
    validation_seed: int
    test_scenes: int
    test_seed: int
    budget: int
    recall_loss: float
    length_change: float
    cuts: tuple[int, ...]
    contenders: tuple[LabCandidate, ...]
    calibration_scenes: int = 200
    calibration_seed: int = 3
    seed: int = 0
    made_by: str = ""

    def __post_init__(self) -> None:
        seeds = {
            "calibration": self.calibration_seed,
            "validation": self.validation_seed,
            "test": self.test_seed,
        }
        for (part, seed), (other, same) in itertools.combinations(seeds.items(), 2):
            if seed == same:
                raise EvalDataError(f"{part} and {other} share the seed {seed}: tune on other scenes than report")
        for one in self.contenders:
            count = len(list(itertools.product(*one.grid.values())))
            if count > self.budget:
                raise EvalDataError(
                    f"{one.name} has {count} candidates, but the budget of every method is {self.budget}: cut its grid"
                )


def load_plan(path: str | Path | None = None) -> LabPlan:
    """Read a plan; the shipped one without a path.

    Raises:
        EvalDataError: it cannot be read, or a key or value in it is wrong.
    """
    where = str(path or "lab.yaml")
    try:
        file = Path(path) if path else resources.files("configs").joinpath("evals", "lab.yaml")
        data = schema.parse_yaml(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as wrong:
        raise EvalDataError(
            f"the plan {where} cannot be read ({' '.join(str(wrong).split())}): give a YAML file"
        ) from wrong
    return schema.build(LabPlan, data, where, EvalDataError)


def with_value(steering: Steering, key: str, value: Any) -> Steering:
    """Set one field of a steering method.

    Raises:
        MethodError: there is no such step or field, or the value is wrong.
    """
    name, _, field = key.partition(".")
    if name not in [step.name for step in steering.steps]:
        raise MethodError(f"{steering.name} has no step {name!r}, which the grid's {key!r} is about")
    steps = tuple(
        schema.build(type(step), {**schema.plain(step), field: value}, f"{steering.name}: {name}")
        if step.name == name
        else step
        for step in steering.steps
    )
    return replace(steering, steps=steps)
