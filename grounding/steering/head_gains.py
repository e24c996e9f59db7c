"""Scale attention by one gain per head on image keys, and one on the text after the image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from grounding.attention.call import AttentionCall, AttentionEdit
from grounding.errors import MethodError
from grounding.models.base import VLM
from grounding.steering.modulation import ImageModulation, KeyMasks, refuse_cross_attention

Table = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class HeadGains(ImageModulation):
    """Multiply each head's weights on image and on text by that head's gains and renormalise the row.

    `grounding calibrate gains` fits the gains.

    Attributes:
        image: [L][H] gains > 0 on the chosen image keys; empty means 1 for every head.
        text: [L][H] gains > 0 on the keys after the image; empty means 1 for every head.
        strength: exponent of all gains; 0 disables steering, 1 applies the gains unchanged.

    Raises:
        MethodError: a table is ragged or holds a gain that is not positive.

    Notes:
        The abstract of arXiv 2501.12206v1 promises head-specific modulation without a rule; this rule is our choice. In
        contrast to a ranking by sensitivity, it can raise the image weight of one head and lower that of another.
    """

    name: ClassVar[str] = "head-gains"
    image: Table = ()
    text: Table = ()
    strength: float = 1.0

    def __post_init__(self) -> None:
        for table in (self.image, self.text):
            if len({len(row) for row in table}) > 1 or any(gain <= 0 for row in table for gain in row):
                raise MethodError("head-gains needs tables of layers with equally many heads and gains above 0")

    @property
    def is_idle(self) -> bool:
        """Whether every gain is 1 or the strength is 0."""
        return self.strength == 0 or all(
            gain == 1 for table in (self.image, self.text) for row in table for gain in row
        )

    @property
    def is_fixed(self) -> bool:
        """True: the edit depends on keys and heads alone."""
        return True

    def edit(self, masks: KeyMasks, call: AttentionCall, rows: Tensor) -> AttentionEdit:
        """Return a logit bias of strength times log gain on image keys and on text keys."""
        bias = torch.zeros(1, call.head_count, 1, 1, device=masks.keys.device)
        for table, keys in ((self.image, masks.keys), (self.text, masks.text)):
            if table:
                logs = torch.tensor(table[masks.layer], device=keys.device).log()[:, None, None]  # [H, 1, 1]
                bias = bias + torch.where(keys, self.strength * masks.strength * logs, 0.0)
        return AttentionEdit(logit_bias=bias)

    def check(self, vlm: VLM) -> None:
        """Check that the tables have the model's layers and heads, and that the model has image keys.

        Raises:
            MethodError: they do not, and the message names both sizes; or it has none.
        """
        refuse_cross_attention(vlm)
        wanted = (vlm.layer_count, vlm.head_count)
        for table in (self.image, self.text):
            if table and (len(table), len(table[0])) != wanted:
                raise MethodError(
                    f"the head gains are for {len(table)} layers of {len(table[0])} heads, but the model has "
                    f"{wanted[0]} of {wanted[1]}: run grounding calibrate gains for it"
                )
