"""A tiny random InternVL; see `grounding.models.tiny`."""

from __future__ import annotations

from grounding.models.tiny.parts import WIDE, TinyModel, seeded
from grounding.models.tiny.qwen import SPECIAL, qwen2_text
from grounding.text.tiny import byte_tokenizer

TILE = 56  # px, 4x4 patches of 14 px, 2x2 cells
TOKENS = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
    "video_token": "<video>",
}
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% for content in message['content'] %}"
    "{% if content['type'] == 'image' %}<IMG_CONTEXT>\n{% elif content['type'] == 'video' %}<video>\n{% else %}"
    "{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tiny_internvl(*, seed: int = 0) -> TinyModel:
    """A random `InternVLForConditionalGeneration` with its processor: at most four tiles of 2x2 cells."""
    from transformers import (
        GotOcr2ImageProcessor,
        InternVLConfig,
        InternVLForConditionalGeneration,
        InternVLProcessor,
        InternVLVideoProcessor,
        InternVLVisionConfig,
    )

    tokenizer = byte_tokenizer(
        (*SPECIAL, *TOKENS.values()), bos=None, eos="<|im_end|>", pad="<|endoftext|>", named=TOKENS
    )
    square = {"height": TILE, "width": TILE}
    processor = InternVLProcessor(
        image_processor=GotOcr2ImageProcessor(size=square, max_patches=4),
        tokenizer=tokenizer,
        video_processor=InternVLVideoProcessor(size=square),
        image_seq_length=4,
        chat_template=TEMPLATE,
    )
    config = InternVLConfig(
        vision_config=InternVLVisionConfig(
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=TILE,
            patch_size=14,
            initializer_range=WIDE,
        ),
        text_config=qwen2_text(tokenizer),
        image_token_id=tokenizer.context_image_token_id,
        image_seq_length=4,
    )
    return seeded(InternVLForConditionalGeneration, config, seed), processor
