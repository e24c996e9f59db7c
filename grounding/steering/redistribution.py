"""Sink redistribution: weight that sinks draw is moved onto image keys that are none."""

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
from grounding.steering.modulation import KeyMasks, OnImage
from grounding.steering.sinks import SinkMemory


@dataclass(frozen=True)
class Redistribute(OnImage):
    """Visual attention redistribution (VAR, Kang et al., ICLR 2025, arXiv 2503.03321).

    In a row of a head that attends enough to the image and mostly off its sinks, every sink key, text or visual, keeps
    a share of its weight; what is freed goes to the chosen image keys that are no sinks, in proportion to their
    weights, so the row still sums to 1. Since the sum stays, this is a logit bias of log c, and the kernel is kept.
    Sinks are found in the prompt alone. Where paper and released code disagree, both are offered:

    * the paper's text removes the fraction p of a sink's weight, its code keeps the fraction p (`reading`);
    * the paper asks for a non-sink share of the visual weight >= rho, its code for a sink share <= rho; at rho = 0.5,
      the value for hallucination, both are one (`head_rule`);
    * the code means to leave out the last layer but, through a shadowed flag, changes it too (`layers`).

    Attributes:
        p: the fraction; 0.6 in the code.
        reading: `keep` or `remove` the fraction p.
        rho: threshold of the head rule.
        head_rule: `non-sink` as in the paper, `sink` as in the code.
        visual_mass: least weight on image keys, sinks included, of a row that is changed.
        tau: least phi of a sink; 20 in the paper.
        skip_layers: first layers without sinks; 2 in the paper.
        dims: the sink dimensions, (1415, 2533) for LLaVA-1.5-7B; empty: found from each prompt's first token.
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
        """The share of its weight that a sink keeps."""
        return self.p if self.reading == "keep" else 1.0 - self.p

    @property
    def is_idle(self) -> bool:
        """Whether sinks keep all."""
        return self.kept == 1.0

    def sink_memory(self, segments: Sequence[TokenLayout]) -> SinkMemory:
        """Who looks for the sinks."""
        return SinkMemory(segments, SinkRule(self.tau, self.skip_layers), self.dims or None)

    def edit(self, masks: KeyMasks, call: AttentionCall, rows: Tensor) -> AttentionEdit:
        """A bias of log c on sinks and on the keys that gain."""
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
