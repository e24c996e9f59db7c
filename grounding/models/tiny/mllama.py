"""A tiny random Mllama; see `grounding.models.tiny`."""

from __future__ import annotations

from grounding.models.tiny.parts import WIDE, TinyModel, seeded
from grounding.text.tiny import byte_tokenizer

TILE = 56  # px, 4x4 patches of 14 px
SPECIAL = (
    "<|finetune_right_pad_id|>",
    "<|begin_of_text|>",
    "<|eot_id|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|python_tag|>",
    "<|image|>",
)
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n"
    "{% for content in message['content'] %}{% if content['type'] == 'image' %}<|image|>{% else %}"
    "{{ content['text'] | trim }}{% endif %}{% endfor %}<|eot_id|>{% endfor %}{% if add_generation_prompt %}"
    "<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)


def tiny_mllama(*, seed: int = 0) -> TinyModel:
    """A random `MllamaForConditionalGeneration` with its processor: at most four tiles of 4x4 patches.

    Of four layers the second and fourth are of cross-attention; their gates are open.
    """
    from transformers import MllamaConfig, MllamaForConditionalGeneration, MllamaImageProcessor, MllamaProcessor

    tokenizer = byte_tokenizer(SPECIAL, bos="<|begin_of_text|>", eos="<|eot_id|>", pad=SPECIAL[0])
    processor = MllamaProcessor(
        MllamaImageProcessor(size={"height": TILE, "width": TILE}, max_image_tiles=4), tokenizer, TEMPLATE
    )
    config = MllamaConfig(
        vision_config={
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_global_layers": 1,
            "attention_heads": 2,
            "image_size": TILE,
            "patch_size": 14,
            "vision_output_dim": 32,
            "intermediate_layers_indices": [0],
            "initializer_range": WIDE,
        },
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "cross_attention_layers": [1, 3],
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
            "max_position_embeddings": 4096,
            "initializer_range": WIDE,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        image_token_index=tokenizer.convert_tokens_to_ids("<|image|>"),
    )
    return seeded(MllamaForConditionalGeneration, config, seed, ("_gate", ".gate")), processor
