"""Read and write a steering method: one YAML file with a list of steps and their parameters."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from grounding import schema
from grounding.errors import MethodError
from grounding.presets import read_shipped, shipped_names
from grounding.registry import Registry
from grounding.steering.base import Intervention

if TYPE_CHECKING:
    from grounding.steering.modulation import Modulation

FOLDER = ("methods", "steering")


STEPS: Registry[Modulation | Intervention] = Registry(
    "step",
    "grounding.steering_steps",
    {
        "renormalise": "grounding.steering.modulation:Renormalise",
        "values": "grounding.steering.modulation:Values",
        "pai": "grounding.steering.modulation:Pai",
        "redistribute": "grounding.steering.redistribution:Redistribute",
        "text-route": "grounding.steering.text_route:TextRoute",
        "head-gains": "grounding.steering.head_gains:HeadGains",
        "gate": "grounding.steering.text_route:Gate",
        "text-guidance": "grounding.steering.baselines.pai:TextGuidance",
        "visual-contrast": "grounding.steering.baselines.vcd:VisualContrast",
        "over-trust": "grounding.steering.baselines.opera:OverTrust",
        "truncation": "grounding.steering.baselines.truncation:Truncation",
    },
    members=("name", ("applied", "edit")),
)
"""Steering steps by their name in a steering file; entry-point group `grounding.steering_steps`."""


@dataclass(frozen=True)
class Steering:
    """Hold one steering method.

    Attributes:
        name: the file's name without its extension.
        description: one sentence.
        source: the paper, and which parts are our choice.
        steps: applied in order.
    """

    name: str
    description: str
    source: str
    steps: tuple[Modulation | Intervention, ...]

    def to_yaml(self) -> str:
        """Write the method as YAML; `parse_steering` reads it back to an equal method."""
        data = {
            "description": self.description,
            "source": self.source,
            "steps": [{"step": step.name, **schema.plain(step)} for step in self.steps],
        }
        return yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=120)


def steering_names() -> tuple[str, ...]:
    """Return the names of the steering methods that ship with the library, sorted."""
    return shipped_names(*FOLDER)


def load_steering(name_or_path: str | Path) -> Steering:
    """Read a steering method.

    Args:
        name_or_path: name of a shipped method, or path of a YAML file (ends in .yaml or .yml, or contains a slash).

    Raises:
        MethodError: the method is unknown, or its file is invalid.
    """
    return read_shipped(name_or_path, FOLDER, "steering method", parse_steering)


def parse_steering(text: str, name: str, where: str) -> Steering:
    """Parse the text of a steering file.

    Args:
        text: YAML with the keys `description`, `source` and `steps`.
        name: of the method.
        where: name of the file in error messages.

    Raises:
        MethodError: the text is not YAML, or a key, step or value is unknown or invalid.
    """
    data = schema.yaml_mapping(text, where)
    schema.check_keys(data, ("description", "source", "steps"), where)
    if not isinstance(data.get("description"), str) or not isinstance(data.get("source"), str):
        raise MethodError(f"{where}: description and source must be given as text")
    if not isinstance(data.get("steps"), list) or not data["steps"]:
        raise MethodError(f"{where}: steps must be a list of at least one entry, each starting with 'step: name'")
    steps = tuple(STEPS.build(entry, "step", where) for entry in data["steps"])
    return Steering(name, data["description"].strip(), data["source"].strip(), steps)
