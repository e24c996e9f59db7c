"""A tiny random Phi-4 multimodal; see `grounding.models.tiny`."""

from __future__ import annotations

from grounding.models.tiny.parts import WIDE, TinyModel, seeded
from grounding.text.tiny import byte_tokenizer

TILE = 128  # px, 32x32 patches of 4 px: the processor counts 16x16 cells for the whole picture whatever the sizes
PATCH = 4
SPECIAL = ("<|endoftext|>", "<|user|>", "<|assistant|>", "<|end|>", "<|image|>", "<|audio|>")
TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{% for content in message['content'] %}"
    "{% if content['type'] == 'image' %}<|image|>{% else %}{{ content['text'] }}{% endif %}{% endfor %}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def tiny_phi4_multimodal(*, seed: int = 0) -> TinyModel:
    """A random `Phi4MultimodalForCausalLM` with its processor: up to four tiles of 16x16 cells and the whole picture.

    As in the checkpoint, its rotary positions are of the long kind and its window is longer than any prompt here.

    Args:
        seed: the weights' seed.
    """
    from transformers import (
        Phi4MultimodalConfig,
        Phi4MultimodalFeatureExtractor,
        Phi4MultimodalForCausalLM,
        Phi4MultimodalImageProcessor,
        Phi4MultimodalProcessor,
    )

    tokenizer = byte_tokenizer(
        SPECIAL,
        bos=None,
        eos="<|end|>",
        pad="<|endoftext|>",
        named={"image_token": "<|image|>", "audio_token": "<|audio|>"},
    )
    processor = Phi4MultimodalProcessor(
        image_processor=Phi4MultimodalImageProcessor(
            size={"height": TILE, "width": TILE}, patch_size=PATCH, dynamic_hd=4
        ),
        audio_processor=Phi4MultimodalFeatureExtractor(),
        tokenizer=tokenizer,
        chat_template=TEMPLATE,
    )
    config = Phi4MultimodalConfig(
        vision_config={
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": TILE,
            "crop_size": TILE,
            "patch_size": PATCH,
            "image_token_id": tokenizer.image_token_id,
        },
        audio_config={
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_blocks": 1,
            "num_attention_heads": 2,
            "ext_pw_out_channel": 16,
            "depthwise_separable_out_channel": 16,
            "nemo_conv_channels": 16,
            "audio_token_id": tokenizer.audio_token_id,
            "feature_layer": -1,
        },
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        rope_parameters={
            "rope_type": "longrope",
            "rope_theta": 10000.0,
            "partial_rotary_factor": 0.75,
            "short_factor": [1.0, 1.1, 1.2],
            "long_factor": [1.0, 2.0, 4.0],
        },
        original_max_position_embeddings=2048,
        sliding_window=4096,
        max_position_embeddings=4096,
        initializer_range=WIDE,
        bos_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    zeros = ("global_img_feature_extensor", "sub_img_feature_extensor")
    return seeded(Phi4MultimodalForCausalLM, config, seed, zeros), processor
