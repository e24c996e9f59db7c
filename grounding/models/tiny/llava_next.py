"""Tiny random LLaVA-NeXT and LLaVA-OneVision models; see `grounding.models.tiny`."""

from __future__ import annotations

from grounding.models.tiny.llava import LLAVA_TEMPLATE, llama_text
from grounding.models.tiny.parts import WIDE, TinyModel, seeded
from grounding.models.tiny.qwen import SPECIAL, qwen2_text
from grounding.text.tiny import byte_tokenizer

TILE = 42  # px, 3x3 patches of 14 px
RESOLUTIONS = [[TILE, 2 * TILE], [2 * TILE, TILE], [2 * TILE, 2 * TILE]]
ONEVISION_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% for content in message['content'] %}"
    "{% if content['type'] == 'image' %}<image>\n{% elif content['type'] == 'video' %}<video>\n{% else %}"
    "{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}"
    "<|im_start|>assistant\n{% endif %}"
)


def tiny_llava_next(*, seed: int = 0) -> TinyModel:
    """A random `LlavaNextForConditionalGeneration` with its processor: tiles of 3x3 cells, at most four of them."""
    from transformers import (
        CLIPVisionConfig,
        LlavaNextConfig,
        LlavaNextForConditionalGeneration,
        LlavaNextImageProcessor,
        LlavaNextProcessor,
    )

    tokenizer = byte_tokenizer(("<unk>", "<s>", "</s>", "<pad>", "<image>"), bos="<s>", eos="</s>", pad="<pad>")
    square = {"height": TILE, "width": TILE}
    processor = LlavaNextProcessor(
        image_processor=LlavaNextImageProcessor(
            size={"shortest_edge": TILE}, crop_size=square, image_grid_pinpoints=RESOLUTIONS
        ),
        tokenizer=tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=LLAVA_TEMPLATE,
    )
    config = LlavaNextConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=TILE,
            patch_size=14,
            initializer_range=WIDE,
        ),
        text_config=llama_text(tokenizer),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=RESOLUTIONS,
    )
    return seeded(LlavaNextForConditionalGeneration, config, seed), processor


def tiny_llava_onevision(*, seed: int = 0, most_tiles: int = 9) -> TinyModel:
    """A random `LlavaOnevisionForConditionalGeneration` with its processor: tiles of 3x3 cells, at most four of them.

    Args:
        seed: the weights' seed.
        most_tiles: a grid of more tiles' cells is made smaller.
    """
    from transformers import (
        LlavaOnevisionConfig,
        LlavaOnevisionForConditionalGeneration,
        LlavaOnevisionImageProcessor,
        LlavaOnevisionProcessor,
        LlavaOnevisionVideoProcessor,
        SiglipVisionConfig,
    )

    tokenizer = byte_tokenizer((*SPECIAL, "<image>", "<video>"), bos=None, eos="<|im_end|>", pad="<|endoftext|>")
    square = {"height": TILE, "width": TILE}
    limit = f"anyres_max_{most_tiles}"
    processor = LlavaOnevisionProcessor(
        image_processor=LlavaOnevisionImageProcessor(size=square, image_grid_pinpoints=RESOLUTIONS),
        tokenizer=tokenizer,
        video_processor=LlavaOnevisionVideoProcessor(size=square),
        num_image_tokens=9,
        vision_feature_select_strategy="full",
        chat_template=ONEVISION_TEMPLATE,
        vision_aspect_ratio=limit,
    )
    config = LlavaOnevisionConfig(
        vision_config=SiglipVisionConfig(
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=TILE,
            patch_size=14,
            vision_use_head=False,
        ),
        text_config=qwen2_text(tokenizer),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=RESOLUTIONS,
        vision_aspect_ratio=limit,
    )
    return seeded(LlavaOnevisionForConditionalGeneration, config, seed), processor
