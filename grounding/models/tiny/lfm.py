"""A tiny random LFM2-VL; see `grounding.models.tiny`."""

from __future__ import annotations

from grounding.models.tiny.parts import WIDE, TinyModel, seeded
from grounding.text.tiny import byte_tokenizer

PATCH = 14  # px
TILES = tuple(f"<|img_row_{row}_col_{column}|>" for row in range(1, 5) for column in range(1, 5))
SPECIAL = ("<|pad|>", "<|startoftext|>", "<|endoftext|>", "<|im_start|>", "<|im_end|>")
VISUAL = ("<image>", "<|image_start|>", "<|image_end|>", "<|img_thumbnail|>")
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for content in message['content'] %}{% if content['type'] == 'image' %}<image>{% else %}{{ content['text'] }}"
    "{% endif %}{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tiny_lfm2_vl(*, seed: int = 0, split: bool = True) -> TinyModel:
    """A random `Lfm2VlForConditionalGeneration` with its processor: at most four tiles of 2x2 cells, 8 of the whole.

    Args:
        seed: the weights' seed.
        split: cut large pictures into tiles.
    """
    from transformers import (
        Lfm2Config,
        Lfm2VlConfig,
        Lfm2VlForConditionalGeneration,
        Lfm2VlImageProcessor,
        Lfm2VlProcessor,
        Siglip2VisionConfig,
    )

    tokenizer = byte_tokenizer((*SPECIAL, *VISUAL, *TILES), bos="<|startoftext|>", eos="<|im_end|>", pad="<|pad|>")
    image_processor = Lfm2VlImageProcessor(
        do_image_splitting=split,
        max_tiles=4,
        min_image_tokens=2,
        max_image_tokens=8,
        encoder_patch_size=PATCH,
        tile_size=4 * PATCH,
        max_pixels_tolerance=1.0,
    )
    processor = Lfm2VlProcessor(image_processor, tokenizer, chat_template=TEMPLATE)
    config = Lfm2VlConfig(
        vision_config=Siglip2VisionConfig(
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_patches=16,
            patch_size=PATCH,
            vision_use_head=False,
        ),
        text_config=Lfm2Config(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            layer_types=["conv", "full_attention"],
            block_auto_adjust_ff_dim=False,
            initializer_range=WIDE,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        ),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        projector_hidden_size=64,
    )
    return seeded(Lfm2VlForConditionalGeneration, config, seed), processor
