"""A tiny random Molmo2; see `grounding.models.tiny`."""

from __future__ import annotations

from grounding.models.tiny.parts import WIDE, TinyModel, seeded
from grounding.models.tiny.qwen import SPECIAL
from grounding.text.tiny import byte_tokenizer

PATCH = 14  # px
SIDE = 6 * PATCH  # px of the whole picture and of a crop
VISUAL = ("<im_patch>", "<im_col>", "<im_start>", "<low_res_im_start>", "<im_end>", "<im_low>")
FRAMES = ("<frame_start>", "<frame_end>")
TEMPLATE = (
    "{% for message in messages %}{% for content in message['content'] %}{% if content['type'] == 'image' %}<|image|>"
    "{% endif %}{% endfor %}<|im_start|>{{ message['role'] }}\n{% for content in message['content'] %}"
    "{% if content['type'] == 'text' %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tiny_molmo2(*, seed: int = 0) -> TinyModel:
    """A random `Molmo2ForConditionalGeneration` with its processor: 3x3 cells, and at most three crops."""
    from transformers import (
        Molmo2Config,
        Molmo2ForConditionalGeneration,
        Molmo2ImageProcessor,
        Molmo2Processor,
        Molmo2VideoProcessor,
    )

    tokenizer = byte_tokenizer(
        (*SPECIAL, "<|image|>", "<|video|>", *VISUAL, *FRAMES),
        bos=None,
        eos="<|endoftext|>",
        pad="<|endoftext|>",
        named={"image_token": "<|image|>", "video_token": "<|video|>"},
    )
    ids = dict(zip((*VISUAL, *FRAMES), tokenizer.convert_tokens_to_ids([*VISUAL, *FRAMES]), strict=True))
    square = {"height": SIDE, "width": SIDE}
    processor = Molmo2Processor(
        image_processor=Molmo2ImageProcessor(size=square, max_crops=3, overlap_margins=[1, 1], patch_size=PATCH),
        video_processor=Molmo2VideoProcessor(size=square, patch_size=PATCH),
        tokenizer=tokenizer,
        chat_template=TEMPLATE,
    )
    tower = {"hidden_size": 16, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8}
    config = Molmo2Config(
        vision_config={
            **tower,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "image_size": [SIDE, SIDE],
            "patch_size": PATCH,
            "initializer_range": WIDE,
        },
        adapter_config={
            **tower,
            "vision_feature_layer": [-1, -2],
            "intermediate_size": 64,
            "text_hidden_size": 32,
            "initializer_range": WIDE,
        },
        text_config={
            "hidden_size": 32,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "vocab_size": len(tokenizer),
            "additional_vocab_size": 0,
            "num_hidden_layers": 2,
            "intermediate_size": 64,
            "max_position_embeddings": 4096,
            "initializer_range": WIDE,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        image_start_token_id=ids["<im_start>"],
        low_res_image_start_token_id=ids["<low_res_im_start>"],
        image_end_token_id=ids["<im_end>"],
        image_patch_id=ids["<im_patch>"],
        frame_start_token_id=ids["<frame_start>"],
        frame_end_token_id=ids["<frame_end>"],
        initializer_range=WIDE,
    )
    return seeded(Molmo2ForConditionalGeneration, config, seed), processor
