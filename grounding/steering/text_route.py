"""Scale the text part of heads' outputs (`TextRoute`), or their whole output (`Gate`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from grounding.attention.call import AttentionCall, AttentionEdit
from grounding.attention.rows import combined_edit, weight_rows
from grounding.errors import MethodError
from grounding.steering.modulation import KeyMasks, Modulation


@dataclass(frozen=True)
class TextRoute(Modulation):
    """Scale the contribution of text keys to a head's output: the keys after the image, instruction and generated text.

    This is the text gate of route competition (CRG, arXiv 2605.24024). AD-HH (ICLR 2025) is this step with a list of
    heads, gain 0 and mass 0.4.

    Attributes:
        gain: factor >= 0 of a head of strength 1; a head of strength w uses 1 + w (gain - 1). 1 disables steering.
        renormalise: renormalise the row after scaling.
        mass: minimum weight on text keys of an edited row, in [0, 1]; 0 edits every row.

    Raises:
        MethodError: a value is out of range.

    Notes:
        `renormalise` is our choice; neither paper renormalises.
    """

    name: ClassVar[str] = "text-route"
    gain: float = 1.0
    renormalise: bool = False
    mass: float = 0.0

    def __post_init__(self) -> None:
        if self.gain < 0 or not 0 <= self.mass <= 1:
            raise MethodError("text-route needs a gain of at least 0 and a mass in [0, 1]")

    @property
    def is_idle(self) -> bool:
        """Whether the gain is 1."""
        return self.gain == 1.0

    @property
    def is_fixed(self) -> bool:
        """Whether no row's weight on text has to be computed."""
        return self.mass == 0

    def edit(self, masks: KeyMasks, call: AttentionCall, rows: Tensor) -> AttentionEdit:
        """Return weight factors, or with `renormalise` a logit bias, on the keys after the image."""
        gain = 1.0 + (self.gain - 1.0) * masks.strength[:, masks.heads]  # [B or 1, H', 1, 1]
        on = masks.text
        if self.mass > 0:
            before = combined_edit(call, rows).logit_bias
            if before is not None and before.shape[1] > 1:
                before = before.index_select(1, masks.heads)
            weights = weight_rows(call.heads(masks.heads), rows, before)
            on = on & ((weights * masks.text).sum(-1, keepdim=True) >= self.mass)
        if not self.renormalise:
            return AttentionEdit(weight_scale=(masks.heads, torch.where(on, gain, 1.0)))
        few = torch.where(on, torch.log(gain), 0.0)
        bias = torch.zeros(few.shape[0], call.head_count, *few.shape[2:], device=few.device)
        return AttentionEdit(logit_bias=bias.index_copy(1, masks.heads, few))


@dataclass(frozen=True)
class Gate(Modulation):
    """Multiply heads' outputs before the output projection.

    Attributes:
        gain: factor of a head of strength 1; a head of strength w uses 1 + w (gain - 1). 1 disables steering.

    Raises:
        MethodError: the heads are to be measured during prefill, which a gate cannot do.
    """

    name: ClassVar[str] = "gate"
    gates_outputs: ClassVar[bool] = True
    gain: float = 1.0

    def __post_init__(self) -> None:
        if self.heads.on_the_fly:
            raise MethodError("gate cannot measure heads while the prompt is read: give a list or a sensitivity file")

    @property
    def is_idle(self) -> bool:
        """Whether the gain is 1."""
        return self.gain == 1.0

    def gates(self, strength: Tensor) -> Tensor:
        """Compute [H] factors from [H] strengths."""
        return 1.0 + (self.gain - 1.0) * strength
