"""BLIP-2 and InstructBLIP: a Q-Former writes the picture as query tokens, which the language model reads for cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from grounding.attention.introspect import LayerStack, decoder_stack
from grounding.errors import ModelError
from grounding.layout import ImageGrid, Separator
from grounding.models.chat import Rendered, placed
from grounding.models.cross import CrossVLM
from grounding.models.geometry import viewed_box
from grounding.models.picture import Picture
from grounding.models.placement import Tokens
from grounding.text.parse import NounFinder


class Blip2(CrossVLM):
    """BLIP-2 with a decoder of any kind that generates on its own (OPT).

    The picture is squeezed into one square. Its patches are keys 1 onwards of the Q-Former's cross-attention; key 0 is
    the class token, a separator. The query tokens stand at the beginning of the prompt. There is no chat template. A
    word's map is its row over the query tokens times what these read (see `grounding.models.qformer`); steering changes
    attention to the query tokens.

    Attributes:
        query_layers: which of the Q-Former's layers with cross-attention are averaged, counted from 0 among these; all
            where None. The config's `grounding_query_layers`.

    Raises:
        ModelError: the language model is an encoder and a decoder (T5), its processor writes another number of query
            tokens, or see `VLM`.
    """

    model_types: ClassVar[tuple[str, ...]] = ("blip-2",)
    takes_several = False

    def __init__(self, model: Any, processor: Any, name: str = "", finder: NounFinder | None = None) -> None:
        if not model.config.use_decoder_only_language_model:
            raise ModelError(
                f"the language model of {name or model.config.name_or_path} is of type "
                f"{model.config.text_config.model_type!r}, whose encoder mixes query tokens and words before an answer "
                "is written, so its decoder's attention is no map: choose a checkpoint with a decoder alone (Vicuna, "
                "OPT)"
            )
        queries = getattr(processor, "num_query_tokens", None)
        if queries != model.config.num_query_tokens:
            raise ModelError(
                f"the processor of {name or model.config.name_or_path} writes {queries} query tokens for a picture, "
                f"and the model makes {model.config.num_query_tokens}: set num_query_tokens of its processor "
                "(processor_config.json) to the model's"
            )
        self.query_layers: Sequence[int] | None = getattr(model.config, "grounding_query_layers", None)
        super().__init__(model, processor, name, finder)

    @property
    def decoder(self) -> Any:
        """The language model's stack of layers."""
        return decoder_stack(self.model).module

    @property
    def image_token(self) -> str:
        """What stands for a query token; the processor writes them before the prompt."""
        token = self.processor.image_token
        return str(getattr(token, "content", token))

    @property
    def query_reader(self) -> LayerStack:
        """The Q-Former's encoder, with the cross-attention of those layers that have one.

        Raises:
            ModelError: `query_layers` names a layer that does not exist.
        """
        encoder = self.model.qformer.encoder
        found = [layer.crossattention for layer in encoder.layer if layer.has_cross_attention]
        if self.query_layers is None:
            return LayerStack(encoder, nn.ModuleList(found))
        chosen = list(self.query_layers)
        if not chosen or len(set(chosen)) != len(chosen) or any(i not in range(len(found)) for i in chosen):
            raise ModelError(
                f"query_layers of {self.name} are {chosen}, expected some of 0 to {len(found) - 1}, each once, "
                "the Q-Former's layers with cross-attention"
            )
        return LayerStack(encoder, nn.ModuleList(found[i] for i in self.query_layers))

    @property
    def projector(self) -> nn.Module:
        """The keys of the Q-Former's first cross-attention, whose input is the vision tower's output."""
        key: nn.Module = self.model.qformer.encoder.layer[0].crossattention.attention.key
        return key

    def render(self, template: str, expression: str, pictures: int) -> Rendered:
        """The bare prompt behind the picture."""
        return placed(lambda text: self.image_token * pictures + text, template, expression)

    def given_text(self, rendered: Rendered) -> str:
        """The prompt alone; the processor writes the picture before it."""
        return rendered.text.removeprefix(self.image_token)

    def cross_spans(self, picture: Picture) -> tuple[ImageGrid | Separator, ...]:
        """The class token and one grid of patches; see `CrossVLM.cross_spans`."""
        height, width = (int(side) for side in picture.entry("pixel_values").shape[-2:])
        patch = int(self.model.config.vision_config.patch_size)
        rows, columns = height // patch, width // patch
        box = viewed_box(picture.size, self.processor.image_processor, (height, width), (rows * patch, columns * patch))
        keys = np.arange(1 + rows * columns)
        return Separator(keys[:1]), ImageGrid(keys[1:], (rows, columns), box)

    def _tokens(self, rendered: Rendered, texts: Sequence[str]) -> Tokens:
        """The query tokens, and behind them the prompt with the tokenizer's own first token."""
        text, lead = self.given_text(rendered), len(self.image_token)
        start, end = (at - lead for at in rendered.span)
        encoded = self.tokenizer(text, return_offsets_mapping=True, truncation=False)
        count = int(self.processor.num_query_tokens)
        offsets = encoded["offset_mapping"]
        spans = [(a - start, b - start) if a < end and b > start else (0, 0) for a, b in offsets]
        return Tokens(
            (*[self.image_token_id] * count, *encoded["input_ids"]),
            (*[(0, 0)] * count, *spans),
            (np.arange(count),),
        )

    def _processed(self, pictures: Sequence[Sequence[Image.Image]], rendered: Sequence[Rendered]) -> Mapping[str, Any]:
        """Every prompt by itself, joined here: the processor would pad between the query tokens and the text."""
        prompts = [
            self.processor(images=list(own), text=[self.given_text(one)], return_tensors="pt")
            for own, one in zip(pictures, rendered, strict=True)
        ]
        return self._joined(prompts)

    def _joined(self, prompts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """The inputs of several prompts as those of a batch, padded on the left."""
        return {
            "pixel_values": torch.cat([one["pixel_values"] for one in prompts]),
            "input_ids": _padded([one["input_ids"] for one in prompts], self.tokenizer.pad_token_id, left=True),
            "attention_mask": _padded([one["attention_mask"] for one in prompts], 0, left=True),
        }


class InstructBlip(Blip2):
    """InstructBLIP, whose Q-Former reads the prompt too; see `Blip2`.

    The decoder may be a Vicuna. The Q-Former's own tokens of the prompt are padded on the right, where they keep the
    positions that they have alone.
    """

    model_types = ("instructblip",)
    fixed_inputs: ClassVar[tuple[str, ...]] = ("qformer_input_ids", "qformer_attention_mask")

    def _joined(self, prompts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        pad = self.processor.qformer_tokenizer.pad_token_id
        return super()._joined(prompts) | {
            "qformer_input_ids": _padded([one["qformer_input_ids"] for one in prompts], pad, left=False),
            "qformer_attention_mask": _padded([one["qformer_attention_mask"] for one in prompts], 0, left=False),
        }


def _padded(rows: Sequence[Tensor], value: int, *, left: bool) -> Tensor:
    """Rows [1, n] as one [B, N]."""
    longest = max(row.shape[1] for row in rows)
    missing = [longest - row.shape[1] for row in rows]
    sides = [(count, 0) if left else (0, count) for count in missing]
    return torch.cat([nn.functional.pad(row, side, value=value) for row, side in zip(rows, sides, strict=True)])
