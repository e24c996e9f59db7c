"""What every modulation has in common, and the three that change the weights of chosen image keys.

S are a head's scaled and masked logits, A = softmax(S) its weights, as in `grounding.attention.rows`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor

from grounding.attention.call import AttentionCall, AttentionEdit
from grounding.attention.rows import combined_edit, logit_rows
from grounding.errors import MethodError
from grounding.layers import LayerRange
from grounding.layout import TokenLayout
from grounding.models.base import VLM
from grounding.steering.base import GenerationContext
from grounding.steering.heads import HeadChoice
from grounding.steering.schedule import StrengthSchedule
from grounding.steering.sinks import SinkMemory
from grounding.steering.tokens import TokenChoice
from grounding.types import IntArray


@dataclass(frozen=True)
class KeyMasks:
    """Which keys and heads an edit is for; B = elements times beams.

    Attributes:
        layer: the decoder layer.
        strength: [B or 1, H, 1, 1] float32, head strengths in [0, 1] times the schedule's.
        heads: [H'] int64, heads whose strength is above 0 in any sequence.
        keys: [B, 1, 1, K] bool, the chosen image keys.
        image: [B, 1, 1, K] bool, all image keys.
        text: [B, 1, 1, K] bool, keys after the image: instruction and generated tokens.
        sinks: [B, 1, 1, K] bool, sinks of the prompt, where the modulation looks for them.
    """

    layer: int
    strength: Tensor
    heads: Tensor
    keys: Tensor
    image: Tensor
    text: Tensor
    sinks: Tensor | None


@dataclass(frozen=True)
class Modulation(ABC):
    """A change of attention in chosen layers and heads, at every generated token and where wanted in the prompt.

    Attributes:
        layers: decoder layers.
        heads: strength per layer and head.
        prefill: rows of the prompt that are changed as well: `none`; `last`, the row that the first generated token is
            predicted from; `text`, every row after the image; `all`.
        schedule: strength over the generated text.
    """

    name: ClassVar[str]
    gates_outputs: ClassVar[bool] = False

    layers: LayerRange = field(default_factory=LayerRange)
    heads: HeadChoice = field(default_factory=HeadChoice)
    prefill: Literal["none", "last", "text", "all"] = "last"
    schedule: StrengthSchedule = field(default_factory=StrengthSchedule)

    @property
    @abstractmethod
    def is_idle(self) -> bool:
        """Whether the numbers say that nothing changes, so that no call is touched."""

    @property
    def is_fixed(self) -> bool:
        """Whether head strengths and kinds of keys alone say what happens to a row, whatever the call holds."""
        return False

    def edit(self, masks: KeyMasks, call: AttentionCall, rows: Tensor) -> AttentionEdit:
        """The edit of chosen rows; empty for modulations that gate outputs.

        Args:
            masks: the keys and heads concerned.
            call: the call with the edits made before.
            rows: [R] int64, indices into its queries.
        """
        return AttentionEdit()

    def gates(self, strength: Tensor) -> Tensor:
        """[H] factors on heads' outputs; 1 for forms that change rows instead."""
        return torch.ones_like(strength)

    def key_positions(self, context: GenerationContext) -> tuple[IntArray, ...]:
        """Per element the chosen image keys."""
        return tuple(layout.image for layout in context.prepared.layouts)

    def sink_memory(self, segments: Sequence[TokenLayout]) -> SinkMemory | None:
        """Who looks for sinks, for forms that need them."""
        return None

    def check(self, vlm: VLM) -> None:  # noqa: B027 - most modulations fit every model
        """Refuse a model that the modulation does not fit.

        Raises:
            MethodError: it does not.
        """


@dataclass(frozen=True)
class OnImage(Modulation):
    """A modulation of chosen image keys.

    Attributes:
        tokens: which image tokens.
    """

    tokens: TokenChoice = field(default_factory=TokenChoice)

    def key_positions(self, context: GenerationContext) -> tuple[IntArray, ...]:
        """Per element the chosen image keys."""
        return self.tokens.select(context)


@dataclass(frozen=True)
class _Gained(OnImage):
    gain: float = 1.0

    def __post_init__(self) -> None:
        if self.gain < 0:
            raise MethodError(f"{self.name} needs a gain of at least 0, got {self.gain}")

    @property
    def is_idle(self) -> bool:
        return self.gain == 1.0

    @property
    def is_fixed(self) -> bool:
        return True


@dataclass(frozen=True)
class Renormalise(_Gained):
    """Multiply weights of image keys and renormalise the row: A' = g A / sum(g A), as S + log g, exactly.

    Attributes:
        gain: g of a head of strength 1; a head of strength w has 1 + w (g - 1). 1 is no steering, 0 hides the keys.
    """

    name: ClassVar[str] = "renormalise"

    def edit(self, masks: KeyMasks, call: AttentionCall, rows: Tensor) -> AttentionEdit:
        """A bias of log g on the chosen keys."""
        gain = 1.0 + (self.gain - 1.0) * masks.strength
        return AttentionEdit(logit_bias=torch.where(masks.keys, torch.log(gain), 0.0))


@dataclass(frozen=True)
class Values(_Gained):
    """Multiply weights of image keys after the softmax without renormalising, which multiplies their value rows.

    Attributes:
        gain: g of a head of strength 1; a head of strength w has 1 + w (g - 1).
    """

    name: ClassVar[str] = "values"

    def edit(self, masks: KeyMasks, call: AttentionCall, rows: Tensor) -> AttentionEdit:
        """Factors on the chosen keys of the heads concerned."""
        gain = 1.0 + (self.gain - 1.0) * masks.strength[:, masks.heads]
        return AttentionEdit(weight_scale=(masks.heads, torch.where(masks.keys, gain, 1.0)))


@dataclass(frozen=True)
class Pai(OnImage):
    """Raise logits of image keys by a share of their size: S' = S + a |S| (PAI, ECCV 2024, arXiv 2407.21771).

    The paper's rule is for the last row of all heads; its released code begins at layer 2. Text-only guidance, its
    other half, is no modulation. S includes what earlier steps of the method added.

    Attributes:
        strength: a of a head of strength 1; 0 is no steering.
    """

    name: ClassVar[str] = "pai"
    strength: float = 0.0

    def __post_init__(self) -> None:
        if self.strength < 0:
            raise MethodError(f"pai needs a strength of at least 0, got {self.strength}")

    @property
    def is_idle(self) -> bool:
        """Whether a = 0."""
        return self.strength == 0.0

    def edit(self, masks: KeyMasks, call: AttentionCall, rows: Tensor) -> AttentionEdit:
        """A bias of a |S| on the chosen keys."""
        logits = logit_rows(call, rows)  # [B, H, R, K]
        before = combined_edit(call, rows).logit_bias
        if before is not None:
            logits = logits + before
        return AttentionEdit(logit_bias=torch.where(masks.keys, self.strength * masks.strength * logits.abs(), 0.0))
