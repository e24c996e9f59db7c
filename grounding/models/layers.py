"""Which layers of a model's decoder have weights of which kind of attention."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Any, ClassVar

from grounding.attention.coverage import cross_layers, linear_layers, row_layers
from grounding.attention.introspect import decoder_stack
from grounding.errors import MethodError
from grounding.record_spec import Attention

_KINDS: dict[Attention, str] = {
    "softmax": "attention weights",
    "linear": "weights of linear attention",
    "cross": "weights of cross-attention",
}


class DecoderLayers:
    """The decoder of a `VLM`, and its layers by kind of attention."""

    model: Any
    name: str
    map_attention: ClassVar[Attention] = "softmax"
    """The kind of attention whose rows relate words to image cells, where a spec names none in particular."""

    @property
    def decoder(self) -> Any:
        """The language model's module whose `.layers` are the decoder blocks."""
        return self.model.get_decoder()

    @property
    def layer_count(self) -> int:
        """L, decoder layers."""
        return len(self.decoder.layers)

    @property
    def head_count(self) -> int:
        """H, query heads per decoder layer."""
        return int(self.model.config.get_text_config().num_attention_heads)

    @cached_property
    def row_layers(self) -> tuple[int, ...]:
        """The layers with softmax attention to the sequence; those of a hybrid that have another kind are left out."""
        return row_layers(decoder_stack(self.model, self.decoder))

    @cached_property
    def linear_layers(self) -> tuple[int, ...]:
        """The layers that attend by the gated delta rule, whose signed weights can be recorded for maps."""
        return linear_layers(decoder_stack(self.model, self.decoder))

    @cached_property
    def cross_layers(self) -> tuple[int, ...]:
        """The layers that attend to keys of pictures alone."""
        return cross_layers(decoder_stack(self.model, self.decoder))

    @property
    def map_layers(self) -> tuple[int, ...]:
        """The layers whose rows are maps."""
        return self.layers_with(self.map_attention)

    @property
    def skipped_layers(self) -> tuple[int, ...]:
        """The layers whose rows are no maps, or that have no weights of softmax attention at all."""
        return self.layers_without(self.map_attention)

    def layers_with(self, attention: Attention) -> tuple[int, ...]:
        """The layers that have weights of a kind of attention."""
        return {"softmax": self.row_layers, "linear": self.linear_layers, "cross": self.cross_layers}[attention]

    def layers_without(self, attention: Attention) -> tuple[int, ...]:
        """The layers that have no weights of a kind of attention."""
        return tuple(sorted(set(range(self.layer_count)) - set(self.layers_with(attention))))

    def with_rows(self, layers: Iterable[int], attention: Attention = "softmax") -> tuple[int, ...]:
        """Those of some layers that have weights of a kind of attention.

        Raises:
            MethodError: none of them has.
        """
        wanted, fit = tuple(layers), self.layers_with(attention)
        kept = tuple(layer for layer in wanted if layer in fit)
        if attention == "linear" and not fit:
            raise MethodError(f"{self.name} has no layers of linear attention: leave the stage 'linear-layers' out")
        if attention == "cross" and not fit:
            raise MethodError(f"{self.name} has no layers of cross-attention: record its rows over the sequence")
        if wanted and not kept:
            raise MethodError(
                f"layers {list(wanted)} of {self.name} have no {_KINDS[attention]}: choose of {list(fit)}"
            )
        return kept

    def layers_notice(self) -> str | None:
        """What every run must say of the layers that maps leave out; None where they leave none out."""
        if not self.skipped_layers:
            return None
        if self.map_attention == "cross":
            return (
                f"{self.name} reads pictures by cross-attention in layers {', '.join(map(str, self.map_layers))} of "
                f"its {self.layer_count}: maps are of these alone."
            )
        skipped = (
            f"{self.name} has no attention weights in layers {', '.join(map(str, self.skipped_layers))} of its "
            f"{self.layer_count} (linear attention or convolution): maps and steering leave them out."
        )
        return (
            f"{skipped} A method with the stage 'linear-layers' maps them instead." if self.linear_layers else skipped
        )
