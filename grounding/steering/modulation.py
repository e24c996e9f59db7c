"""Define the base of all modulations, and three modulations of the weights of chosen image keys.

S are a head's scaled and masked logits and A = softmax(S) its weights, as in `grounding.attention.rows`. Shape letters:
B elements times beams, H query heads, R rows, K keys.
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
from grounding.record_spec import Attention
from grounding.steering.base import GenerationContext
from grounding.steering.heads import HeadChoice
from grounding.steering.schedule import StrengthSchedule
from grounding.steering.sinks import SinkMemory
from grounding.steering.tokens import TokenChoice
from grounding.types import IntArray


@dataclass(frozen=True)
class KeyMasks:
    """Hold the keys and heads that an edit applies to.

    Attributes:
        layer: the decoder layer.
        strength: [B or 1, H, 1, 1] float32, head strengths in [0, 1] times the schedule's strength.
        heads: [H'] int64, heads whose strength is above 0 in any sequence.
        keys: [B, 1, 1, K] bool, the chosen image keys.
        image: [B, 1, 1, K] bool, all image keys.
        text: [B, 1, 1, K] bool, keys after the image: instruction and generated tokens.
        sinks: [B, 1, 1, K] bool, attention sinks of the prompt; None where the modulation does not use them.
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
    """Edit attention in chosen layers and heads, for every generated token and for chosen rows of the prompt.

    Attributes:
        layers: decoder layers.
        heads: strength per layer and head.
        prefill: prompt rows that are edited too: `none`; `last`, the row that predicts the first generated token;
            `text`, every row after the image; `all`.
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
        """Whether the parameters are those of the identity, so that no call is edited."""

    @property
    def is_fixed(self) -> bool:
        """Whether the edit depends on `KeyMasks` alone and not on queries, keys or rows, so it can be cached."""
        return False

    def edit(self, masks: KeyMasks, call: AttentionCall, rows: Tensor) -> AttentionEdit:
        """Compute the edit of chosen rows; the default edits nothing.

        Args:
            masks: the keys and heads that the edit applies to.
            call: the attention call with all earlier edits.
            rows: [R] int64, indices into its queries.
        """
        return AttentionEdit()

    def gates(self, strength: Tensor) -> Tensor:
        """Compute [H] factors on heads' outputs from [H] strengths; the default is 1."""
        return torch.ones_like(strength)

    def key_positions(self, context: GenerationContext) -> tuple[IntArray, ...]:
        """Return the chosen image keys of each element, as positions in the padded prompt."""
        return tuple(layout.image for layout in context.prepared.layouts)

    def sink_memory(self, layouts: Sequence[TokenLayout]) -> SinkMemory | None:
        """Create the memory that finds sinks during prefill; None where the modulation needs no sinks."""
        return None

    def attention(self, vlm: VLM) -> Attention:
        """Return the kind of attention whose layers are edited."""
        return "softmax"

    def check(self, vlm: VLM) -> None:  # noqa: B027 - most modulations fit every model
        """Check that the modulation fits a model.

        Raises:
            MethodError: it does not fit.
        """


def refuse_cross_attention(vlm: VLM) -> None:
    """Refuse a model that reads its picture in layers of cross-attention, for edits that weigh image against text.

    Raises:
        MethodError: it does.
    """
    if vlm.map_attention == "cross":
        raise MethodError(
            f"{vlm.name} reads its picture in layers by cross-attention, where every key is of the picture, and "
            "elsewhere has no image keys, so there is no share of the picture to raise: use the step 'values', which "
            "scales what these layers bring, or a method that changes the next token's scores (vcd)"
        )


@dataclass(frozen=True)
class ImageModulation(Modulation):
    """Modulate the attention on chosen image keys.

    Attributes:
        tokens: the image tokens.
    """

    raises_share: ClassVar[bool] = True
    """Whether the edit weighs the picture against the words that the same row attends to."""

    tokens: TokenChoice = field(default_factory=TokenChoice)

    def attention(self, vlm: VLM) -> Attention:
        """Return the kind of attention whose layers are edited: the one that reads pictures."""
        return vlm.map_attention

    def key_positions(self, context: GenerationContext) -> tuple[IntArray, ...]:
        """Return the chosen image keys of each element: positions in the padded prompt, or keys of cross-attention.

        Raises:
            MethodError: the choice needs the vision tower's attention, which cannot be read.
        """
        return self.tokens.select(context)

    def check(self, vlm: VLM) -> None:
        """Check that the model attends to its picture and to words in the same layers, where the edit needs that.

        Raises:
            MethodError: it does not.
        """
        if self.raises_share or self.heads.on_the_fly:
            refuse_cross_attention(vlm)


@dataclass(frozen=True)
class _GainModulation(ImageModulation):
    """Base of modulations with one gain >= 0 that is the identity at 1."""

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
class Renormalise(_GainModulation):
    """Multiply the weights of image keys by g and renormalise the row: A' = g A / sum(g A) = softmax(S + log g).

    Attributes:
        gain: g >= 0 of a head of strength 1; a head of strength w uses 1 + w (g - 1). 1 disables steering, 0 masks the
            keys.
    """

    name: ClassVar[str] = "renormalise"

    def edit(self, masks: KeyMasks, call: AttentionCall, rows: Tensor) -> AttentionEdit:
        """Return a logit bias of log g on the chosen keys."""
        gain = 1.0 + (self.gain - 1.0) * masks.strength
        return AttentionEdit(logit_bias=torch.where(masks.keys, torch.log(gain), 0.0))


@dataclass(frozen=True)
class Values(_GainModulation):
    """Multiply the weights of image keys by g after the softmax, without renormalising; this scales their values.

    Of a model that reads pictures by cross-attention it scales what its layers of cross-attention bring.

    Attributes:
        gain: g >= 0 of a head of strength 1; a head of strength w uses 1 + w (g - 1). 1 disables steering.
    """

    name: ClassVar[str] = "values"
    raises_share: ClassVar[bool] = False

    def edit(self, masks: KeyMasks, call: AttentionCall, rows: Tensor) -> AttentionEdit:
        """Return weight factors of g on the chosen keys."""
        gain = 1.0 + (self.gain - 1.0) * masks.strength[:, masks.heads]
        return AttentionEdit(weight_scale=(masks.heads, torch.where(masks.keys, gain, 1.0)))


@dataclass(frozen=True)
class Pai(ImageModulation):
    """Raise the logits of image keys: S' = S + a |S| (PAI, ECCV 2024, arXiv 2407.21771).

    The paper applies this to the last row of all heads; its released code starts at layer 2. S includes the biases of
    earlier steps. The paper's text-only guidance is the step `text-guidance`.

    Attributes:
        strength: a >= 0 of a head of strength 1; a head of strength w uses w a. 0 disables steering.
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
        """Return a logit bias of a |S| on the chosen keys."""
        logits = logit_rows(call, rows)  # [B, H, R, K]
        before = combined_edit(call, rows).logit_bias
        if before is not None:
            logits = logits + before
        return AttentionEdit(logit_bias=torch.where(masks.keys, self.strength * masks.strength * logits.abs(), 0.0))
