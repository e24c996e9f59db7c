"""Tiny random MiniCPM-V models; see `grounding.models.tiny`."""

from __future__ import annotations

from typing import Any

from grounding.models.tiny.parts import TinyModel, seeded
from grounding.models.tiny.qwen import LINEAR, SPECIAL, qwen3_text
from grounding.text.tiny import byte_tokenizer

PATCH = 7  # px; a cell is 28 px
LAYERS = ["full_attention", "linear_attention"]
TOKENS = {
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "image_start_token": "<image>",
    "image_end_token": "</image>",
    "slice_start_token": "<slice>",
    "slice_end_token": "</slice>",
    "image_id_start_token": "<image_id>",
    "image_id_end_token": "</image_id>",
}
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% for content in message['content'] %}"
    "{% if content['type'] == 'image' %}<|image_pad|>\n{% else %}{{ content['text'] }}{% endif %}{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% else %}<think>\n"
    "{% endif %}{% endif %}"
)


def tiny_minicpmv4_6(*, seed: int = 0, mode: str = "16x") -> TinyModel:
    """A random `MiniCPMV4_6ForConditionalGeneration` with its processor: at most three slices of about 4 cells.

    Args:
        seed: the weights' seed.
        mode: `16x` or `4x`, which has four times as many cells.
    """
    from transformers import MiniCPMV4_6Config, MiniCPMV4_6ForConditionalGeneration, MiniCPMV4_6Processor

    processor = _processor(MiniCPMV4_6Processor, mode)
    config = MiniCPMV4_6Config(downsample_mode=mode, **_parts(processor))
    return seeded(MiniCPMV4_6ForConditionalGeneration, config, seed), processor


def tiny_minicpmv4_7(*, seed: int = 0) -> TinyModel:
    """A random `MiniCPMV4_7ForConditionalGeneration` with its processor; its positions are those of a canvas."""
    from transformers import MiniCPMV4_7Config, MiniCPMV4_7ForConditionalGeneration, MiniCPMV4_7Processor

    processor = _processor(MiniCPMV4_7Processor)
    tokenizer = processor.tokenizer
    config = MiniCPMV4_7Config(
        image_start_id=tokenizer.image_start_token_id,
        image_end_id=tokenizer.image_end_token_id,
        slice_start_id=tokenizer.slice_start_token_id,
        slice_end_id=tokenizer.slice_end_token_id,
        newline_id=tokenizer.convert_tokens_to_ids("Ċ"),
        **_parts(processor),
    )
    return seeded(MiniCPMV4_7ForConditionalGeneration, config, seed), processor


def _processor(processor_class: Any, mode: str = "16x") -> Any:
    from transformers import MiniCPMV4_6ImageProcessor, MiniCPMV4_6VideoProcessor

    tokenizer = byte_tokenizer(
        (*SPECIAL, *TOKENS.values(), "<think>", "</think>"),
        bos=None,
        eos="<|im_end|>",
        pad="<|endoftext|>",
        named=TOKENS,
    )
    settings = {"scale_resolution": 8 * PATCH, "patch_size": PATCH, "downsample_mode": mode}
    return processor_class(
        image_processor=MiniCPMV4_6ImageProcessor(max_slice_nums=3, **settings),
        video_processor=MiniCPMV4_6VideoProcessor(**settings),
        tokenizer=tokenizer,
        chat_template=TEMPLATE,
    )


def _parts(processor: Any) -> dict[str, Any]:
    return {
        "text_config": {"model_type": "qwen3_5_text", **qwen3_text(processor), **LINEAR, "layer_types": LAYERS},
        "vision_config": {
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 8 * PATCH,
            "patch_size": PATCH,
        },
        "insert_layer_id": 0,
        "image_token_id": processor.image_token_id,
        "video_token_id": processor.video_token_id,
    }
