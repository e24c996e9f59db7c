"""What the lab compares: methods, the numbers each is tuned over, and on which scenes. One YAML file."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from grounding import schema
from grounding.errors import EvalDataError, MethodError
from grounding.steering.fit_settings import FitSettings
from grounding.steering.method import Steering, load_steering

Number = bool | int | float


@dataclass(frozen=True)
class Candidate:
    """One method and its grid.

    Attributes:
        name: in the tables.
        grid: "step.field" to the values tried; every combination is a candidate.
        steering: a shipped steering method or a file's path; its numbers are where the grid starts.
        fit: instead of `steering`: gains fitted on the calibration scenes.
    """

    name: str
    grid: Mapping[str, tuple[Number, ...]]
    steering: str = ""
    fit: FitSettings | None = None

    def __post_init__(self) -> None:
        if bool(self.steering) == (self.fit is not None):
            raise EvalDataError(f"{self.name}: give a steering method or a fit, one of both")

    def candidates(self, fitted: Steering | None = None) -> tuple[Steering, ...]:
        """Every combination of the grid's values, named by them.

        Args:
            fitted: where the grid of a fitted contender starts.

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
        validation_scenes: scenes that methods are tuned on.
        validation_seed: of these scenes.
        test_scenes: scenes that are reported.
        test_seed: of these scenes; another one.
        budget: most candidates a method may have, so that none is tuned harder than another.
        recall_loss: most recall, in points, that a candidate may lose on the validation scenes.
        length_change: most that its length may change there, in percent.
        cuts: words after which the unsteered captions are cut, for the control.
        contenders: the methods.
        calibration_scenes: scenes with true descriptions that gains are fitted on.
        calibration_seed: of these scenes; a third one.
        seed: of decoding and bootstrap.
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
    contenders: tuple[Candidate, ...]
    calibration_scenes: int = 200
    calibration_seed: int = 3
    seed: int = 0

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
    """Read a plan; the shipped one where no path is given.

    Raises:
        EvalDataError: it cannot be read, or a key or value in it is wrong.
    """
    where = str(path or "lab.yaml")
    try:
        file = Path(path) if path else resources.files("configs").joinpath("evals", "lab.yaml")
        data = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as wrong:
        raise EvalDataError(
            f"the plan {where} cannot be read ({' '.join(str(wrong).split())}): give a YAML file"
        ) from wrong
    return schema.build(LabPlan, data, where, EvalDataError)


def with_value(steering: Steering, key: str, value: Any) -> Steering:
    """A steering method with another number in one field.

    Raises:
        MethodError: it has no such step or field, or the value is wrong.
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
