"""A tiny random Phi-4 multimodal; see `grounding.models.tiny`."""

from __future__ import annotations

from grounding.models.tiny.parts import WIDE, TinyModel, seeded
from grounding.text.tiny import byte_tokenizer

PATCH = 2  # px
TILE = 32 * PATCH  # px; the processor counts 16x16 cells for every tile
TOKENS = {"image_token": "<|endoftext10|>", "audio_token": "<|endoftext11|>"}
SPECIAL = ("<|endoftext|>", "<|user|>", "<|assistant|>", "<|end|>")
TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{% for content in message['content'] %}"
    "{% if content['type'] == 'image' %}<|endoftext10|>{% else %}{{ content['text'] }}{% endif %}{% endfor %}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def tiny_phi4_multimodal(*, seed: int = 0) -> TinyModel:
    """A random `Phi4MultimodalForCausalLM` with its processor: at most two tiles of 16x16 cells.

    The number of cells cannot be smaller, because the processor counts 256 for the whole picture.
    """
    from transformers import (
        Phi4MultimodalAudioConfig,
        Phi4MultimodalConfig,
        Phi4MultimodalFeatureExtractor,
        Phi4MultimodalForCausalLM,
        Phi4MultimodalImageProcessor,
        Phi4MultimodalProcessor,
        Phi4MultimodalVisionConfig,
    )

    tokenizer = byte_tokenizer((*SPECIAL, *TOKENS.values()), bos=None, eos="<|end|>", pad="<|endoftext|>", named=TOKENS)
    processor = Phi4MultimodalProcessor(
        Phi4MultimodalImageProcessor(size={"height": TILE, "width": TILE}, patch_size=PATCH, dynamic_hd=2),
        Phi4MultimodalFeatureExtractor(),
        tokenizer,
        chat_template=TEMPLATE,
    )
    config = Phi4MultimodalConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=WIDE,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        vision_config=Phi4MultimodalVisionConfig(
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=TILE,
            patch_size=PATCH,
            crop_size=TILE,
            image_token_id=tokenizer.image_token_id,
        ),
        audio_config=Phi4MultimodalAudioConfig(
            hidden_size=16,
            intermediate_size=32,
            num_blocks=1,
            num_attention_heads=2,
            ext_pw_out_channel=16,
            nemo_conv_channels=16,
            audio_token_id=tokenizer.audio_token_id,
        ),
    )
    zeros = ("sub_img_feature_extensor", "global_img_feature_extensor")
    return seeded(Phi4MultimodalForCausalLM, config, seed, zeros=zeros), processor
