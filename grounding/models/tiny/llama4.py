"""A tiny random Llama 4; see `grounding.models.tiny`."""

from __future__ import annotations

from grounding.models.tiny.parts import WIDE, TinyModel, seeded
from grounding.text.tiny import byte_tokenizer

TILE = 56  # px, 4x4 patches of 14 px, 2x2 cells
SPECIAL = ("<|pad|>", "<|begin_of_text|>", "<|eot|>", "<|header_start|>", "<|header_end|>")
VISUAL = (
    "<|image|>",
    "<|image_start|>",
    "<|image_end|>",
    "<|patch|>",
    "<|tile_x_separator|>",
    "<|tile_y_separator|>",
)
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|header_start|>{{ message['role'] }}<|header_end|>\n\n"
    "{% for content in message['content'] %}{% if content['type'] == 'image' %}<|image|>{% else %}"
    "{{ content['text'] }}{% endif %}{% endfor %}<|eot|>{% endfor %}{% if add_generation_prompt %}"
    "<|header_start|>assistant<|header_end|>\n\n{% endif %}"
)


def tiny_llama4(*, seed: int = 0, chunk: int = 1024) -> TinyModel:
    """A random `Llama4ForConditionalGeneration` with its processor: at most four tiles of 2x2 cells.

    Its first layer has experts and sees a chunk of the positions; its second sees all and does not know their order.

    Args:
        seed: the weights' seed.
        chunk: positions in a chunk.
    """
    from transformers import (
        Llama4Config,
        Llama4ForConditionalGeneration,
        Llama4ImageProcessor,
        Llama4Processor,
        Llama4TextConfig,
        Llama4VisionConfig,
    )

    tokenizer = byte_tokenizer((*SPECIAL, *VISUAL), bos="<|begin_of_text|>", eos="<|eot|>", pad="<|pad|>")
    processor = Llama4Processor(
        image_processor=Llama4ImageProcessor(size={"height": TILE, "width": TILE}, max_patches=4),
        tokenizer=tokenizer,
        chat_template=TEMPLATE,
    )
    config = Llama4Config(
        vision_config=Llama4VisionConfig(
            hidden_size=16,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            vision_output_dim=32,
            projector_input_dim=32,
            projector_output_dim=32,
            image_size=TILE,
            patch_size=14,
            initializer_range=WIDE,
        ),
        text_config=Llama4TextConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=32,
            intermediate_size_mlp=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            num_local_experts=4,
            moe_layers=[0],
            no_rope_layers=[1, 0],
            attention_chunk_size=chunk,
            initializer_range=WIDE,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        ),
        boi_token_index=tokenizer.convert_tokens_to_ids("<|image_start|>"),
        eoi_token_index=tokenizer.convert_tokens_to_ids("<|image_end|>"),
        image_token_index=tokenizer.convert_tokens_to_ids("<|patch|>"),
    )
    return seeded(Llama4ForConditionalGeneration, config, seed), processor
