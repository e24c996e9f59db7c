"""Tiny random Mistral 3 and Pixtral models; see `grounding.models.tiny`."""

from __future__ import annotations

from typing import Any

from grounding.models.tiny.llava import llama_text
from grounding.models.tiny.parts import WIDE, TinyModel, seeded
from grounding.text.tiny import byte_tokenizer

PATCH = 14  # px
SPECIAL = ("<unk>", "<s>", "</s>", "<pad>", "[INST]", "[/INST]", "[IMG]", "[IMG_BREAK]", "[IMG_END]")
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}[INST]{% for content in message['content'] %}"
    "{% if content['type'] == 'text' %}{{ content['text'] }}{% else %}[IMG]{% endif %}{% endfor %}[/INST]{% endfor %}"
)


def tiny_mistral3(*, seed: int = 0) -> TinyModel:
    """A random `Mistral3ForConditionalGeneration` with its processor: at most 5 cells of 2x2 patches along a side."""
    from transformers import Mistral3Config, Mistral3ForConditionalGeneration, MistralConfig

    tokenizer, processor = _processor(merge=2)
    text = MistralConfig(**{**llama_text(tokenizer).to_dict(), "model_type": "mistral", "sliding_window": None})
    config = Mistral3Config(
        vision_config=_vision(),
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids("[IMG]"),
        spatial_merge_size=2,
    )
    return seeded(Mistral3ForConditionalGeneration, config, seed), processor


def tiny_pixtral(*, seed: int = 0) -> TinyModel:
    """A random `LlavaForConditionalGeneration` with Pixtral's tower and processor: at most 10 cells along a side."""
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    tokenizer, processor = _processor(merge=1)
    config = LlavaConfig(
        vision_config=_vision(),
        text_config=llama_text(tokenizer),
        image_token_index=tokenizer.convert_tokens_to_ids("[IMG]"),
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    return seeded(LlavaForConditionalGeneration, config, seed), processor


def _processor(merge: int) -> tuple[Any, Any]:
    from transformers import PixtralImageProcessor, PixtralProcessor

    tokenizer = byte_tokenizer(SPECIAL, bos="<s>", eos="</s>", pad="<pad>")
    image_processor = PixtralImageProcessor(
        size={"longest_edge": 10 * PATCH}, patch_size={"height": PATCH, "width": PATCH}
    )
    processor = PixtralProcessor(
        image_processor, tokenizer, patch_size=PATCH, spatial_merge_size=merge, chat_template=TEMPLATE
    )
    return tokenizer, processor


def _vision() -> Any:
    from transformers import PixtralVisionConfig

    return PixtralVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=10 * PATCH,
        patch_size=PATCH,
        initializer_range=WIDE,
    )
