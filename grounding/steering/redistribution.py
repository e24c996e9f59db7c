"""Redistribute attention from attention sinks to image keys that are not sinks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from grounding.attention.call import AttentionCall, AttentionEdit
from grounding.attention.rows import weight_rows
from grounding.attention.sinks import SKIP_LAYERS, TAU, SinkRule
from grounding.errors import MethodError
from grounding.layout import TokenLayout
from grounding.steering.modulation import ImageModulation, KeyMasks
from grounding.steering.sinks import SinkMemory


@dataclass(frozen=True)
class Redistribute(ImageModulation):
    """Move attention from sinks to image keys (VAR, Kang et al., ICLR 2025, arXiv 2503.03321).

    In a row whose attention on the image is at least `visual_mass` and passes the head rule, every sink key, text or
    visual, keeps a fraction of its weight; the freed weight goes to the chosen image keys that are not sinks, in
    proportion to their weights. The row still sums to 1, so the edit is an exact logit bias. Sinks are found during
    prefill only.

    Paper and released code disagree in three points:

    * the paper removes the fraction p of a sink's weight, its code keeps the fraction p (`reading`);
    * the paper requires a non-sink share of the visual weight >= rho, its code a sink share <= rho; both are equal at
      rho = 0.5, the value for hallucination (`head_rule`);
    * the code intends to skip the last layer but edits it, because a flag is shadowed (`layers`).

    Attributes:
        p: the fraction, in [0, 1]; 0.6 in the code.
        reading: `keep` or `remove` the fraction p.
        rho: threshold of the head rule, in [0, 1].
        head_rule: `non-sink` as in the paper, `sink` as in the code.
        visual_mass: minimum weight on image keys, sinks included, of an edited row.
        tau: a key with phi >= tau is a sink, > 0; 20 in the paper.
        skip_layers: number of first layers without sinks, >= 0; 2 in the paper.
        dims: the sink dimensions, (1415, 2533) for LLaVA-1.5-7B; empty finds them at each prompt's first token (see
            `grounding.attention.sinks.sink_dimensions`).

    Raises:
        MethodError: a value is out of range.
    """

    name: ClassVar[str] = "redistribute"
    p: float = 0.6
    reading: Literal["keep", "remove"] = "keep"
    rho: float = 0.5
    head_rule: Literal["non-sink", "sink"] = "non-sink"
    visual_mass: float = 0.2
    tau: float = TAU
    skip_layers: int = SKIP_LAYERS
    dims: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not (0 <= self.p <= 1 and 0 <= self.rho <= 1 and self.tau > 0 and self.skip_layers >= 0):
            raise MethodError("redistribute needs p and rho in [0, 1], tau above 0 and skip_layers of at least 0")

    @property
    def kept(self) -> float:
        """Fraction of its weight that a sink keeps, in [0, 1]."""
        return self.p if self.reading == "keep" else 1.0 - self.p

    @property
    def is_idle(self) -> bool:
        """Whether sinks keep all of their weight."""
        return self.kept == 1.0

    def sink_memory(self, layouts: Sequence[TokenLayout]) -> SinkMemory:
        """Create the memory that finds the prompt's sinks."""
        return SinkMemory(layouts, SinkRule(self.tau, self.skip_layers), self.dims or None)

    def edit(self, masks: KeyMasks, call: AttentionCall, rows: Tensor) -> AttentionEdit:
        """Return a logit bias of log c, with c each weight's factor: below 1 on sinks, above 1 on receiving keys."""
        assert masks.sinks is not None
        weights = weight_rows(call, rows)  # [B, H, R, K]
        visual = (weights * masks.image).sum(-1, keepdim=True)  # [B, H, R, 1]
        share = (weights * (masks.image & masks.sinks)).sum(-1, keepdim=True) / visual.clamp(min=1e-12)
        fits = share <= (1.0 - self.rho if self.head_rule == "non-sink" else self.rho)
        gaining = masks.keys & ~masks.sinks
        room = (weights * gaining).sum(-1, keepdim=True)
        on = fits & (visual >= self.visual_mass) & (room > 0)
        kept = 1.0 - (1.0 - self.kept) * masks.strength
        freed = (weights * masks.sinks).sum(-1, keepdim=True) * (1.0 - kept)
        times = torch.where(masks.sinks, kept, torch.where(gaining, 1.0 + freed / room.clamp(min=1e-12), 1.0))
        return AttentionEdit(logit_bias=torch.where(on, torch.log(times), 0.0))
