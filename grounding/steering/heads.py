"""Which heads a modulation is for, and how strongly: all alike, a list, or by a measured sensitivity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from grounding.attention.sinks import SKIP_LAYERS, TAU, SinkRule
from grounding.errors import MethodError
from grounding.layers import share_of

ON_THE_FLY = "prefill"
"""Instead of a file's name: the sensitivity is measured while the prompt is read."""


@dataclass(frozen=True)
class HeadChoice:
    """A strength in [0, 1] per layer and head. Without a list and without a sensitivity it is 1 for every head.

    Attributes:
        listed: [layer, head] pairs of strength 1; every other head has 0.
        sensitivity: a file written by `grounding calibrate sensitivity`, or `prefill`: measured in each layer at the
            last prompt row of the very picture, and ranked within the layer since later ones have not run yet.
        measure: what `prefill` measures: the row's attention on image keys that are no sinks (phi < `sink_tau`), or on
            the keys after the image.
        rule: `top`, 1 for the highest, as many as `top` or `count` says; `threshold`, 1 from `threshold` on;
            `proportional`, from `least` at the lowest value to 1 at the highest.
        top: of the rule `top`, the share of the heads in (0, 1], rounded by `grounding.layers.share_of`, at least one.
        count: of the rule `top`, a number of heads in place of the share.
        threshold: of the rule `threshold`.
        least: of the rule `proportional`.
        lowest: the heads of lowest sensitivity are meant.
        sink_tau: least phi of a sink (Kang et al., ICLR 2025).
        sink_skip_layers: first layers without sinks.
    """

    listed: tuple[tuple[int, int], ...] = ()
    sensitivity: str = ""
    measure: Literal["mass", "text"] = "mass"
    rule: Literal["top", "threshold", "proportional"] = "proportional"
    top: float = 0.25
    count: int | None = None
    threshold: float = 0.2
    least: float = 0.0
    lowest: bool = False
    sink_tau: float = TAU
    sink_skip_layers: int = SKIP_LAYERS

    def __post_init__(self) -> None:
        if self.listed and self.sensitivity:
            raise MethodError("heads are given as a list and by a sensitivity; expected one of both")
        if not 0 < self.top <= 1:
            raise MethodError(
                f"top {self.top:g} is not a share of the heads in (0, 1]: give a number of heads as 'count: "
                f"{max(1, round(self.top))}'"
            )
        if self.count is not None and self.count < 1:
            raise MethodError(f"heads need count >= 1, got {self.count}")
        if not 0 <= self.least <= 1 or self.sink_tau <= 0 or self.sink_skip_layers < 0:
            raise MethodError("heads need least in [0, 1], sink_tau above 0 and sink_skip_layers of at least 0")

    @property
    def sink_rule(self) -> SinkRule:
        """Which keys count as sinks where heads are measured."""
        return SinkRule(self.sink_tau, self.sink_skip_layers)

    @property
    def on_the_fly(self) -> bool:
        """Whether strengths are only known once the prompt is read."""
        return self.sensitivity == ON_THE_FLY

    def strengths(self, layers: Sequence[int], layer_count: int, head_count: int) -> Tensor:
        """What is known before the run.

        Args:
            layers: the layers of the modulation; the rule compares their heads.
            layer_count: L.
            head_count: H.

        Returns:
            [L, H] float32 in [0, 1], 0 in other layers; what is only known on the fly counts as 1.

        Raises:
            MethodError: a listed head is not there, or the sensitivity file cannot be used with this model.
        """
        found = torch.zeros(layer_count, head_count)
        chosen = list(layers)
        if self.listed:
            for layer, head in self.listed:
                if not (0 <= layer < layer_count and 0 <= head < head_count):
                    raise MethodError(
                        f"head [{layer}, {head}] does not exist: the model has {layer_count} layers of {head_count} "
                        "heads"
                    )
                found[layer, head] = float(layer in chosen)
        elif self.sensitivity and not self.on_the_fly:
            from grounding.steering.sensitivity import load_sensitivity

            values = load_sensitivity(self.sensitivity).for_model(layer_count, head_count)
            picked = torch.from_numpy(values)[chosen]
            found[chosen] = self.by_rule(picked.flatten()).view_as(picked)
        else:
            found[chosen] = 1.0
        return found

    def by_rule(self, values: Tensor) -> Tensor:
        """Strengths from sensitivities that are compared with each other.

        Args:
            values: [..., n].

        Returns:
            [..., n] float32 in [0, 1].
        """
        if self.rule == "threshold":
            return (values <= self.threshold if self.lowest else values >= self.threshold).float()
        values = -values if self.lowest else values
        if self.rule == "top":
            wanted = share_of(self.top, values.shape[-1]) if self.count is None else self.count
            best = values.topk(min(max(wanted, 1), values.shape[-1]), dim=-1).indices
            return torch.zeros_like(values, dtype=torch.float32).scatter(-1, best, 1.0)
        low, high = values.amin(-1, keepdim=True), values.amax(-1, keepdim=True)
        share = (values - low) / (high - low).clamp(min=1e-12)
        return (self.least + (1 - self.least) * share).float()
