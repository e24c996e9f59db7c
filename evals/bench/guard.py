"""Compare measured ratios with committed ones, so that a slower release is noticed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from grounding import schema
from grounding.errors import MethodError, UsageError
from grounding.presets import read_shipped

FOLDER = ("bench",)


@dataclass(frozen=True)
class ExpectedRatios:
    """Committed ratios of one benchmark.

    Attributes:
        margin: fraction of a committed ratio by which a measured one may be worse, from 0.
        at_most: ratios that are better when lower, by name.
        at_least: ratios that are better when higher, by name.
        size: the sizes that they were measured with, by option.
    """

    margin: float
    at_most: dict[str, float] = field(default_factory=dict)
    at_least: dict[str, float] = field(default_factory=dict)
    size: dict[str, int | str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.margin < 0:
            raise MethodError(f"margin is {self.margin}, expected a fraction from 0")
        if not self.at_most and not self.at_least:
            raise MethodError("neither at_most nor at_least names a ratio: give one that is to be checked")

    def check_size(self, size: Mapping[str, Any]) -> None:
        """Refuse a benchmark of another size before it runs.

        Raises:
            UsageError: an option differs from the committed one.
        """
        other = [
            f"{name} is {size.get(name)!r}, not {value!r}"
            for name, value in self.size.items()
            if size.get(name) != value
        ]
        if other:
            raise UsageError(
                f"ratios of another size cannot be compared ({'; '.join(other)}): leave these options out, or check "
                "against a file that was measured with them"
            )

    def regression(self, found: Mapping[str, float]) -> str | None:
        """Say in one sentence which measured ratios are worse than allowed; None if none is.

        Args:
            found: measured ratios by name; others are ignored.

        Raises:
            UsageError: a committed ratio was not measured.
        """
        if missing := [name for name in (*self.at_most, *self.at_least) if name not in found]:
            raise UsageError(f"{' and '.join(missing)} was not measured: check against a file of this benchmark")
        limits = [(name, value, "at most", value * (1 + self.margin)) for name, value in self.at_most.items()]
        limits += [(name, value, "at least", value * (1 - self.margin)) for name, value in self.at_least.items()]
        worse = [
            f"{name} is {found[name]:.3f}, expected {side} {limit:.3f} (committed {value:g})"
            for name, value, side, limit in limits
            if not (found[name] <= limit if side == "at most" else found[name] >= limit)
        ]
        return "; ".join(worse) or None


def load_expected(name_or_path: str | Path) -> ExpectedRatios:
    """Load committed ratios: a file's name under `configs/bench`, or the path of a YAML file.

    Raises:
        MethodError: no such file, or it is wrong; the message names the key.
    """

    def parse(text: str, name: str, where: str) -> ExpectedRatios:
        return schema.build(ExpectedRatios, schema.yaml_mapping(text, where), where)

    return read_shipped(name_or_path, FOLDER, "benchmark", parse)
