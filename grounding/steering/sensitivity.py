"""Store the visual sensitivity of a model's heads in a YAML file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import yaml

from grounding import schema
from grounding.errors import MethodError
from grounding.files import write_text
from grounding.types import FloatArray

Kind = Literal["mass", "ablation", "gradient", "agreement"]


@dataclass(frozen=True)
class Sensitivity:
    """Hold the visual sensitivity of every head of one model.

    Attributes:
        model: the model's name.
        kind: the measure, defined in `grounding.steering.measure`: `mass`, attention on image keys that are not sinks;
            `ablation`, decrease of the answer's log-probability without the head's image part; `gradient`, its
            first-order approximation; `agreement`, fraction of the image attention on the object's mask.
        n: number of samples.
        data_sha256: hash of the samples.
        values: [L][H], mean over samples.
        seed: of generated samples; None where the samples came from files.

    Raises:
        MethodError: the values are empty or ragged.
    """

    model: str
    kind: Kind
    n: int
    data_sha256: str
    values: tuple[tuple[float, ...], ...]
    seed: int | None = None

    def __post_init__(self) -> None:
        if not self.values or not self.values[0] or len({len(row) for row in self.values}) != 1:
            raise MethodError("a sensitivity needs values as layers of equally many heads")

    def array(self) -> FloatArray:
        """Return the values as [L, H] float32."""
        return np.array(self.values, dtype=np.float32)

    def for_model(self, layers: int, heads: int) -> FloatArray:
        """Return the values as [L, H] float32, after checking the model's size.

        Args:
            layers: L of the model.
            heads: H of the model.

        Raises:
            MethodError: the sensitivity was measured on a model of another size.
        """
        found = self.array()
        if found.shape != (layers, heads):
            raise MethodError(
                f"the sensitivity of {self.model} is for {found.shape[0]} layers of {found.shape[1]} heads, but the "
                f"model has {layers} of {heads}: run grounding calibrate sensitivity for it"
            )
        return found

    def save(self, path: Path) -> None:
        """Write the sensitivity as YAML, atomically; values are rounded to six decimals."""
        data = schema.plain(self)
        del data["values"]
        data["values"] = [[round(v, 6) for v in row] for row in self.values]
        write_text(path, yaml.safe_dump(data, sort_keys=False, default_flow_style=None, width=120))


def load_sensitivity(path: str | Path) -> Sensitivity:
    """Read a file written by `Sensitivity.save`.

    Raises:
        MethodError: the file cannot be read or has other content.
    """
    try:
        data = schema.parse_yaml(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as wrong:
        raise MethodError(
            f"the sensitivity file {path} cannot be read: give a file written by grounding calibrate sensitivity"
        ) from wrong
    return schema.build(Sensitivity, data, str(path))
