"""Choose the heads of a modulation and their strengths: all equally, from a list, or by a measured sensitivity."""

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
"""Value of `HeadChoice.sensitivity` that measures the sensitivity during prefill instead of reading a file."""


@dataclass(frozen=True)
class HeadChoice:
    """Assign each layer and head a strength in [0, 1]; without list and sensitivity it is 1 for every head.

    Attributes:
        listed: [layer, head] pairs of strength 1; every other head has strength 0.
        sensitivity: path of a file written by `grounding calibrate sensitivity`, compared over the modulation's layers;
            or `prefill`, measured at the last prompt row of each input and compared within each layer, because later
            layers have not run yet.
        measure: quantity measured by `prefill`: `mass`, the row's attention on image keys that are not sinks, the same
            quantity as sensitivity kind `mass`; `text`, its attention on the keys after the image.
        rule: `top`, strength 1 for the highest values (see `top` and `count`) and 0 for the rest; `threshold`, 1 for
            values >= `threshold` and 0 for the rest; `proportional`, linear from `least` at the lowest value to 1 at
            the highest.
        top: for rule `top`, share of the heads in (0, 1], rounded by `grounding.layers.share_of`, at least one head.
        count: for rule `top`, number of heads, >= 1; takes precedence over `top`.
        threshold: for rule `threshold`.
        least: for rule `proportional`, in [0, 1].
        lowest: rank heads from the lowest value instead of the highest.
        sink_tau: a key with phi >= `sink_tau` is a sink, > 0 (Kang et al., ICLR 2025).
        sink_skip_layers: number of first layers without sinks, >= 0.

    Raises:
        MethodError: a value is out of range, or both a list and a sensitivity are given.
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
        """The sink rule of the measure `mass`."""
        return SinkRule(self.sink_tau, self.sink_skip_layers)

    @property
    def on_the_fly(self) -> bool:
        """Whether strengths are measured during prefill."""
        return self.sensitivity == ON_THE_FLY

    def strengths(self, layers: Sequence[int], layer_count: int, head_count: int) -> Tensor:
        """Compute the strengths that are known before the run.

        Args:
            layers: layers of the modulation; the rule compares the heads of all of them.
            layer_count: L.
            head_count: H.

        Returns:
            [L, H] float32 in [0, 1], 0 in other layers; 1 where strengths are measured during prefill.

        Raises:
            MethodError: a listed head does not exist, or the sensitivity file is unreadable or of another model size.
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
        """Apply the rule to sensitivities.

        Args:
            values: [..., n]; the last axis is compared.

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
