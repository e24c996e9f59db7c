"""Store the heads of one model that localise objects, best first, in a YAML file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from grounding import schema
from grounding.errors import MethodError
from grounding.files import write_text

HeadRule = Literal["entropy", "share", "contrast", "agreement", "causal"]
Head = tuple[int, int]


@dataclass(frozen=True)
class HeadRanking:
    """Hold the localisation heads of one model.

    Attributes:
        model: the model's name.
        rule: how they were ranked, defined in `grounding.localization`.
        n: number of samples.
        data_sha256: hash of the samples.
        layers: L of the model.
        heads: H of each of its layers.
        ranking: (layer, head, score), best first; heads that the rule leaves out are missing.
        settings: the rule's numbers.
        seed: of generated samples; None where the samples came from files.

    Raises:
        MethodError: there is no head, one occurs twice, or one does not exist.
    """

    model: str
    rule: HeadRule
    n: int
    data_sha256: str
    layers: int
    heads: int
    ranking: tuple[tuple[int, int, float], ...]
    settings: dict[str, Any] = field(default_factory=dict)
    seed: int | None = None

    def __post_init__(self) -> None:
        named = [(layer, head) for layer, head, _ in self.ranking]
        if not named or len(set(named)) != len(named):
            raise MethodError("a ranking of heads needs at least one head, and each once")
        for layer, head in named:
            if not (0 <= layer < self.layers and 0 <= head < self.heads):
                raise MethodError(
                    f"a ranking names head {head} of layer {layer}, but says {self.layers} layers of {self.heads} heads"
                )

    def top(self, count: int) -> tuple[Head, ...]:
        """The best `count` heads, best first.

        Raises:
            MethodError: fewer are ranked.
        """
        if not 1 <= count <= len(self.ranking):
            raise MethodError(f"{count} heads were asked for, but {len(self.ranking)} are ranked: give 1 to that many")
        return tuple((layer, head) for layer, head, _ in self.ranking[:count])

    def save(self, path: Path) -> None:
        """Write the ranking as YAML, atomically; scores are rounded to six decimals."""
        data = schema.plain(self)
        data["ranking"] = [[layer, head, round(score, 6)] for layer, head, score in self.ranking]
        write_text(path, yaml.safe_dump(data, sort_keys=False, default_flow_style=None, width=120))


def load_ranking(path: str | Path) -> HeadRanking:
    """Read a file written by `HeadRanking.save`.

    Raises:
        MethodError: the file cannot be read or has other content.
    """
    try:
        data = schema.parse_yaml(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as wrong:
        raise MethodError(
            f"the heads file {path} cannot be read: give a file written by grounding calibrate heads"
        ) from wrong
    return schema.build(HeadRanking, data, str(path))
