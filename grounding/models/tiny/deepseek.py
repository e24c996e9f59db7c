"""Tiny random DeepSeek-VL and Kimi K2.5 models; see `grounding.models.tiny`."""

from __future__ import annotations

from typing import Any

from grounding.models.tiny.llava import llama_text
from grounding.models.tiny.parts import WIDE, TinyModel, seeded
from grounding.text.tiny import byte_tokenizer

PATCH = 14  # px
SIDE = 5 * PATCH  # px, 5x5 cells
IMAGE_TOKEN = "<image_placeholder>"  # the text of this token in DeepSeek-VL's own tokenizer, as its checkpoints ship it
TEMPLATE = (
    "{% for message in messages %}User: {% for content in message['content'] %}{% if content['type'] == 'image' %}"
    + IMAGE_TOKEN
    + "{% else %}{{ content['text'] }}{% endif %}{% endfor %}\n\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)
KIMI_SPECIAL = ("[PAD]", "[BOS]", "[EOS]", "<|im_user|>", "<|im_assistant|>", "<|im_middle|>", "<|im_end|>")
KIMI_VISUAL = ("<|media_begin|>", "<|media_content|>", "<|media_pad|>", "<|media_end|>", "<|video_pad|>")
KIMI_TEMPLATE = (
    "{% for message in messages %}<|im_user|>{{ message['role'] }}<|im_middle|>{% for content in message['content'] %}"
    "{% if content['type'] == 'image' %}<|media_begin|>image<|media_content|><|media_pad|><|media_end|>\n"
    "{% else %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>{% endfor %}{% if add_generation_prompt %}"
    "<|im_assistant|>assistant<|im_middle|>{% if thinking is defined and thinking is false %}<think></think>"
    "{% else %}<think>{% endif %}{% endif %}"
)


def tiny_deepseek_vl(*, seed: int = 0) -> TinyModel:
    """A random `DeepseekVLForConditionalGeneration` with its processor: a square of 5x5 cells."""
    from transformers import (
        DeepseekVLConfig,
        DeepseekVLForConditionalGeneration,
        DeepseekVLImageProcessor,
        DeepseekVLProcessor,
    )

    tokenizer = _tokenizer()
    processor = DeepseekVLProcessor(
        image_processor=DeepseekVLImageProcessor(size={"height": SIDE, "width": SIDE}),
        tokenizer=tokenizer,
        chat_template=TEMPLATE,
        num_image_tokens=25,
    )
    config = DeepseekVLConfig(
        vision_config=_vision(), text_config=llama_text(tokenizer), image_token_id=tokenizer.image_token_id
    )
    return seeded(DeepseekVLForConditionalGeneration, config, seed), processor


def tiny_deepseek_vl_hybrid(*, seed: int = 0) -> TinyModel:
    """A random `DeepseekVLHybridForConditionalGeneration` with its processor: a square of 5x5 cells, read twice."""
    from transformers import (
        DeepseekVLHybridConfig,
        DeepseekVLHybridForConditionalGeneration,
        DeepseekVLHybridImageProcessor,
        DeepseekVLHybridProcessor,
    )

    tokenizer = _tokenizer()
    processor = DeepseekVLHybridProcessor(
        image_processor=DeepseekVLHybridImageProcessor(
            size={"height": SIDE, "width": SIDE}, high_res_size={"height": 2 * SIDE, "width": 2 * SIDE}
        ),
        tokenizer=tokenizer,
        chat_template=TEMPLATE,
        num_image_tokens=25,
    )
    config = DeepseekVLHybridConfig(
        vision_config=_vision(),
        high_res_vision_config={
            "model_type": "sam_vision_model",
            "hidden_size": 16,
            "output_channels": 8,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 2 * SIDE,
            "patch_size": 7,
            "window_size": 4,
            "global_attn_indexes": [1],
            "mlp_dim": 32,
            "initializer_range": WIDE,
        },
        text_config=llama_text(tokenizer),
        image_token_id=tokenizer.image_token_id,
    )
    return seeded(DeepseekVLHybridForConditionalGeneration, config, seed, zeros=("high_res_vision_alpha",)), processor


def tiny_kimi_k25(*, seed: int = 0) -> TinyModel:
    """A random `Kimi_K25ForConditionalGeneration` with its processor: at most 24 cells of 28 px."""
    from transformers import DeepseekV3Config, Kimi_K25Config, Kimi_K25ForConditionalGeneration
    from transformers.models.kimi_k25.configuration_kimi_k25 import Kimi_K25VisionConfig
    from transformers.models.kimi_k25.image_processing_kimi_k25 import Kimi_K25ImageProcessor
    from transformers.models.kimi_k25.processing_kimi_k25 import Kimi_K25Processor
    from transformers.models.kimi_k25.video_processing_kimi_k25 import Kimi_K25VideoProcessor

    tokenizer = byte_tokenizer(
        (*KIMI_SPECIAL, *KIMI_VISUAL),
        bos=None,
        eos="<|im_end|>",
        pad="[PAD]",
        named={"image_token": "<|media_pad|>", "video_token": "<|video_pad|>"},
    )
    processor = Kimi_K25Processor(
        image_processor=Kimi_K25ImageProcessor(max_patches=96),
        tokenizer=tokenizer,
        video_processor=Kimi_K25VideoProcessor(),
        chat_template=KIMI_TEMPLATE,
    )
    config = Kimi_K25Config(
        vision_config=Kimi_K25VisionConfig(
            pos_emb_height=8,
            pos_emb_width=8,
            num_attention_heads=2,
            num_hidden_layers=2,
            hidden_size=16,
            intermediate_size=32,
            initializer_range=WIDE,
        ),
        text_config=DeepseekV3Config(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            moe_intermediate_size=16,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=4,
            n_routed_experts=4,
            n_group=2,
            topk_group=1,
            num_experts_per_tok=2,
            kv_lora_rank=16,
            q_lora_rank=16,
            qk_rope_head_dim=8,
            qk_nope_head_dim=8,
            v_head_dim=12,
            first_k_dense_replace=1,
            initializer_range=WIDE,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        ),
        projection_hidden_size=16,
        image_token_id=tokenizer.image_token_id,
        video_token_id=tokenizer.video_token_id,
    )
    return seeded(Kimi_K25ForConditionalGeneration, config, seed), processor


def _tokenizer() -> Any:
    return byte_tokenizer(
        ("<pad>", "<bos>", "<eos>", IMAGE_TOKEN),
        bos="<bos>",
        eos="<eos>",
        pad="<pad>",
        named={"image_token": IMAGE_TOKEN},
    )


def _vision() -> dict[str, Any]:
    return {
        "model_type": "siglip_vision_model",
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": SIDE,
        "patch_size": PATCH,
    }
